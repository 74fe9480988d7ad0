"""An export's tokenizer and generation settings, as transformers reads them."""

from pathlib import Path

import pytest
import torch

from tests.support.corpora.vocabularies import vocabulary_of
from tests.support.families import CONFIGS
from tresse.data.packing.settings import Packing
from tresse.engine.hugging_face import export
from tresse.engine.model import Transformer
from tresse.engine.unit_tokenizer import write_tokenizer

transformers = pytest.importorskip("transformers")

UNITS = 50


@pytest.mark.parametrize(
    ("separators", "first", "end"),
    [("none", None, None), ("eos", UNITS, UNITS), ("bos_eos", UNITS + 1, UNITS)],
)
def test_units_are_words_and_a_text_begins_as_a_document_does(
    separators: str, first: int | None, end: int | None, tmp_path: Path
) -> None:
    packing = Packing(row_length=32, separators=separators)  # type: ignore[arg-type]
    write_tokenizer(tmp_path, vocabulary_of(UNITS, packing.uses_specials), packing)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = [first] if first is not None else []
    assert tokenizer("<Un3><Un49> <Un0>")["input_ids"] == [*expected, 3, 49, 0]
    assert tokenizer.decode([3, 49, 0]) == "<Un3><Un49><Un0>"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (first, end)
    assert tokenizer.model_max_length == 32
    assert len(tokenizer) == UNITS + 3 * (separators != "none")
    with pytest.raises(Exception, match=r"(?i)unk"):
        tokenizer("<Un50>")


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_an_export_generates_units_without_more_settings(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    packing = Packing(row_length=32, separators="eos")
    vocabulary = vocabulary_of(UNITS, has_specials=True)
    model = Transformer(config, vocabulary.width, vocabulary.num_used)
    model.init_weights(0)
    export(
        {name: parameter.detach() for name, parameter in model.named_parameters()},
        config,
        tmp_path / "out",
        torch.float32,
        vocab_used=vocabulary.num_used,
        max_positions=packing.row_length,
        eos=vocabulary.eos,
        write_more=lambda folder: write_tokenizer(folder, vocabulary, packing),
    )
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.generation_config.do_sample
    assert loaded.generation_config.eos_token_id == UNITS
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    torch.manual_seed(0)
    found = loaded.generate(**tokenizer("<Un3><Un4>", return_tensors="pt"))[0].tolist()
    assert found[:3] == [UNITS, 3, 4]
    assert len(found) <= 32
    assert max(found) < vocabulary.num_used
