"""Text rows of a checkpoint are kept beside new rows, and go back to transformers as they were."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.families import CONFIGS, LLAMA, finished_state, write_stage
from tests.support.foreign.text_models import TEXTS, write_bpe_tokenizer, write_text_model
from tresse.data.packing.settings import Packing
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.text_tokenizer import identify_text_tokenizer, load_text_tokenizer
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.checkpoint.checkpoint import (
    export_stage,
    is_export_of,
    load_model,
    open_checkpoint,
)
from tresse.engine.model import Transformer
from tresse.engine.pretrained import load_pretrained, rows_like
from tresse.engine.run.config import ModelConfig
from tresse.engine.run.recipes import RECIPES
from tresse.engine.stage import check_vocabulary, fill_new
from tresse.engine.unit_tokenizer import check_names

transformers = pytest.importorskip("transformers")

UNITS = Tokenizer("units", "", "25/2", 34)
PACKING = Packing(row_length=32, separators="eos", tags=("<asr>",))
CPU = torch.device("cpu")


def started_from(
    folder: Path, config: ModelConfig, **changes: Any
) -> tuple[Any, Transformer, Vocabulary]:
    """Return a model of transformers, ours that began from it, and our ids."""
    theirs, text = write_text_model(folder, config, num_more_rows=3)
    vocabulary = Vocabulary.of([UNITS, text], PACKING)
    model = replace(config, pretrained=str(folder), **changes)
    ours = Transformer(model, vocabulary.width, vocabulary.num_used)
    fill_new(ours, replace(RECIPES["tiny"](), model=model), vocabulary)
    return theirs, ours.eval(), vocabulary


def write_finished(run: Path, model: Transformer, vocabulary: Vocabulary) -> Path:
    """Write the checkpoint of a finished stage; return the stage's folder."""
    languages = {"en": UNITS, "en-text": vocabulary.tokenizers[1]}
    return write_stage(run, model, finished_state(model.config, PACKING, vocabulary, languages))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("new", ["normal", "mean-cov"])
@torch.no_grad()
def test_text_has_the_logits_that_it_had_before(name: str, new: Any, tmp_path: Path):
    theirs, ours, vocabulary = started_from(tmp_path, CONFIGS[name], new_embedding=new)
    first, num_text = UNITS.vocab_size, vocabulary.tokenizers[1].vocab_size
    tokens = torch.randint(num_text, (2, 21), generator=torch.Generator().manual_seed(0))
    expected = theirs(tokens).logits[..., :num_text]
    hidden = ours.hidden_states(tokens + first)[-1]
    found = ours.logits(hidden)[..., first : first + num_text]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    others = torch.cat([ours.embedding.weight[:first], ours.embedding.weight[first + num_text :]])
    used = others[: vocabulary.num_used - num_text]
    assert used.std(dim=1).min() > 0, "the rows of units and special tokens are drawn"


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_an_export_is_the_text_model_with_more_tokens(name: str, tmp_path: Path):
    _, ours, vocabulary = started_from(tmp_path / "hf", CONFIGS[name])
    stage = write_finished(tmp_path / "run", ours, vocabulary)
    with pytest.raises(ValueError, match=r"no tokenizer\.json of bpe .* in the run's folder"):
        export_stage(stage, tmp_path / "out", "fp32")
    (tmp_path / "run" / "tokenizer.json").write_bytes(
        (tmp_path / "hf" / "tokenizer.json").read_bytes()
    )
    export_stage(stage, tmp_path / "out", "fp32")
    assert is_export_of(tmp_path / "out", stage)

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    eos = vocabulary.eos
    text = load_text_tokenizer(tmp_path / "hf" / "tokenizer.json").encode(TEXTS[0]).ids
    num_text = vocabulary.tokenizers[1].vocab_size
    ids = tokenizer(f"{TEXTS[0]}<Un0><Un33><asr><|end|>")["input_ids"]
    units = [num_text, num_text + 33]
    assert ids == [eos, *text, *units, vocabulary.tag("<asr>"), 0], "text keeps its own ids"
    assert tokenizer.decode(ids) == f"<eos>{TEXTS[0]}<Un0><Un33><asr><|end|>"
    assert tokenizer.eos_token_id == eos

    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    places = torch.from_numpy(vocabulary.text_first())
    logits = theirs(torch.tensor([ids])).logits[0]
    hidden = ours.hidden_states(places[torch.tensor([ids])])[-1]
    torch.testing.assert_close(logits, ours.logits(hidden)[0][:, places], rtol=1e-5, atol=1e-5)

    again = load_model(open_checkpoint(tmp_path / "out"), torch.float32, CPU)
    for parameter in dict(ours.named_parameters()):
        own, read = ours.get_parameter(parameter), again.get_parameter(parameter)
        used = vocabulary.num_used if "embedding" in parameter or "head" in parameter else len(own)
        assert torch.equal(own[:used], read[:used]), parameter


def test_what_cannot_be_kept_is_refused(tmp_path: Path):
    _, text = write_text_model(tmp_path, LLAMA)
    vocabulary = Vocabulary.of([UNITS, text], PACKING)
    config = replace(LLAMA, pretrained=str(tmp_path))
    with pytest.raises(ValueError, match="slice: the first rows"):
        load_pretrained(replace(config, new_embedding="slice"), vocabulary, 0)
    other = replace(config, tie_embeddings=not config.tie_embeddings)
    with pytest.raises(ValueError, match=r"head, whose rows of text are kept; set --model\."):
        load_pretrained(other, vocabulary, 0)
    larger = Vocabulary.of([UNITS, replace(text, vocab_size=text.vocab_size + 1)], PACKING)
    with pytest.raises(ValueError, match=f"{text.vocab_size} rows, {text.vocab_size + 1} are need"):
        load_pretrained(config, larger, 0)
    write_bpe_tokenizer(tmp_path / "tokenizer.json", special="<|other|>")
    with pytest.raises(ValueError, match=r"tokenizer\.json: hash .*, but the texts of the corpus"):
        load_pretrained(config, vocabulary, 0)


def test_rows_are_drawn_alike_from_blocks_of_a_table():
    table = torch.randn(20_000, 6, generator=torch.Generator().manual_seed(0)) * 3 + 1
    drawn = rows_like(table, 50_000, "key").double()
    assert torch.allclose(drawn.mean(0), table.double().mean(0), atol=0.05)
    assert torch.allclose(drawn.T.cov(), table.double().T.cov(), atol=0.2)


@pytest.mark.parametrize("name", ["<eos>", "<asr>", "<Un3>"])
def test_names_that_the_text_tokenizer_has_already_are_refused(name: str, tmp_path: Path):
    write_bpe_tokenizer(tmp_path / "tokenizer.json", special=name)
    text = identify_text_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match=rf"tokenizer\.json: has the tokens {name}, which"):
        check_names(Vocabulary.of([UNITS, text], PACKING), tmp_path / "tokenizer.json")


def test_ids_of_special_tokens_and_tags_keep_their_meaning(tmp_path: Path):
    _, ours, vocabulary = started_from(tmp_path / "hf", LLAMA)
    source = open_checkpoint(write_finished(tmp_path / "run", ours, vocabulary))
    check_vocabulary(source, vocabulary)
    check_vocabulary(source, replace(vocabulary, tags=("<asr>", "<tts>")))
    for changed in (
        replace(vocabulary, tags=("<tts>", "<asr>")),
        replace(vocabulary, has_specials=False),
    ):
        with pytest.raises(ValueError, match="ids would change their meaning: keep the order"):
            check_vocabulary(source, changed)
