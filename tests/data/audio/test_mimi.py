"""Mimi's encoder with random weights: batches, chunks and codebooks change no unit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moshi.models.compression import MimiModel
from moshi.models.loaders import get_mimi
from safetensors.torch import save_file

from tests.support.synthetic_audio import buzz, write_buzz
from tresse.data.audio import mimi
from tresse.data.audio.mimi import Mimi, load_mimi
from tresse.data.prepare import main
from tresse.data.store.corpus import verify_corpus

pytestmark = pytest.mark.slow


@torch.no_grad()
def fill_codebooks(model: MimiModel) -> None:
    """Fill the codebooks near the states of sounds: without weights get_mimi leaves them zero."""
    generator = torch.Generator().manual_seed(0)
    sounds = np.stack([buzz(3, seed=100 + i) for i in range(6)])
    batch = torch.from_numpy(sounds)[:, None]
    latent = model._encode_to_unquantized_latent(batch)
    quantizers: list[Any] = [model.quantizer.rvq_first, model.quantizer.rvq_rest]
    for quantizer in quantizers:
        points = quantizer.input_proj(latent).transpose(1, 2).flatten(0, 1)
        for layer in quantizer.vq.layers:
            book = layer._codebook
            chosen = torch.randint(len(points), (book.codebook_size,), generator=generator)
            noise = torch.randn(book.embedding_sum.shape, generator=generator)
            book.embedding_sum.copy_(points[chosen] + points.std(0) * noise)
            book.cluster_usage.fill_(1)
            book._initialized.fill_(1)


@pytest.fixture(scope="module")
def model() -> MimiModel:
    """Mimi in its real size."""
    torch.manual_seed(0)
    model = get_mimi(None)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name:
            torch.nn.init.constant_(parameter, 0.5)  # 0.01 would hide what attention does
    fill_codebooks(model)
    return model


@pytest.fixture(scope="module")
def weights(model: MimiModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same as a file, 320 MB; pytest would keep it."""
    path = tmp_path_factory.mktemp("weights") / "mimi.safetensors"
    save_file(model.state_dict(), path)
    yield path
    path.unlink()


WAVEFORMS = [buzz(seconds, seed=i) for i, seconds in enumerate((1.0, 2.3, 0.08, 0.7))]


def test_a_batch_gives_each_waveform_what_it_has_alone(model: MimiModel) -> None:
    tokenizer = Mimi(model, "x")
    assert tokenizer.sample_rate == 24_000
    batch = tokenizer.encode(WAVEFORMS)
    assert [units.size for units in batch] == [13, 29, 1, 9]
    assert len(set(batch[1].tolist())) > 10, "the codebook tells sounds apart"
    for units, waveform in zip(batch, WAVEFORMS, strict=True):
        np.testing.assert_array_equal(units, tokenizer.encode([waveform])[0])


def test_the_first_codebook_does_not_depend_on_how_many_are_used(model: MimiModel) -> None:
    expected = Mimi(model, "x").encode(WAVEFORMS[:1])[0]
    for num_codebooks in (1, 8, 32):
        model.set_num_codebooks(num_codebooks)
        with torch.no_grad():
            codes = model.encode(torch.from_numpy(WAVEFORMS[0])[None, None])
        assert codes.shape == (1, num_codebooks, 13)
        np.testing.assert_array_equal(codes[0, 0].numpy(), expected)


def test_chunks_of_a_long_waveform_give_what_the_whole_does(
    model: MimiModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Mimi(model, "x")
    # Longer than the 10 s that the attention looks back, so that its cache goes round.
    waveform = buzz(11.3, seed=5)
    (expected,) = tokenizer.encode([waveform])
    monkeypatch.setattr(mimi, "MAX_WHOLE_FRAMES", 20)
    monkeypatch.setattr(mimi, "CHUNK_FRAMES", 50)
    (found,) = tokenizer.encode([waveform])
    assert found.size == 142
    # Random codebooks have near ties, which rounding decides.
    assert (found != expected).sum() <= 1


def test_bf16_changes_few_units(model: MimiModel) -> None:
    (expected,) = Mimi(model, "x").encode(WAVEFORMS[1:2])
    (found,) = Mimi(model, "x", "bf16").encode(WAVEFORMS[1:2])
    assert found.shape == expected.shape
    assert (found == expected).mean() > 0.5, "entries of random codebooks lie close together"


def test_the_command_reads_weights_from_a_file(
    model: MimiModel, weights: Path, tmp_path: Path
) -> None:
    paths = [write_buzz(tmp_path / f"{i}.wav", 1 + i / 4, seed=i) for i in range(3)]
    table = "".join(f"{path.name},{path.stem},en\n" for path in paths)
    (tmp_path / "m.csv").write_text("path,key,lang\n" + table)
    flags = ["--tokenizer", "mimi", "--mimi-weights", str(weights), "--out", str(tmp_path / "c")]
    assert main(["audio", str(tmp_path / "m.csv"), *flags]) == 0
    corpus = verify_corpus(tmp_path / "c")
    found = corpus.tokenizers[0]
    assert (found.name, found.frame_rate, found.vocab_size) == ("mimi", "25/2", 2048)
    assert len(found.hash) == 16
    tokenizer = Mimi(model, "x")
    for i in range(3):
        # The file has 16 bits.
        sound = np.round(buzz(1 + i / 4, seed=i) * 32768) / 32768
        (expected,) = tokenizer.encode([sound.astype(np.float32)])
        (units,) = corpus.document("en", i)
        assert (units == expected).mean() >= 0.9


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"other\.safetensors: not the weights of Mimi"):
        load_mimi(str(path), "cpu")
    (tmp_path / "mimi.pt").touch()
    with pytest.raises(ValueError, match=r"mimi\.pt: expected a \.safetensors file"):
        load_mimi(str(tmp_path / "mimi.pt"), "cpu")
    with pytest.raises(ValueError, match="expected hf://owner/repository/file"):
        load_mimi("hf://kyutai/mimi", "cpu")
