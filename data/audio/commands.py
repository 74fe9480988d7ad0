"""The commands of `data/prepare.py` that start from audio."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import tyro

from tresse.data.audio.job_settings import JobSettings
from tresse.data.audio.readers.any_format import AudioFormat, read_audio
from tresse.data.audio.recordings import Recording
from tresse.data.audio.tokenizers import TokenizerSettings, load_tokenizer
from tresse.data.naming import Naming
from tresse.data.store.corpus import Corpus

PACKAGES = ("soundfile", "soxr", "kaldi_native_fbank", "sklearn")
DEFAULTS = JobSettings()
BY_NAME = Naming()


def prepare_audio(
    manifests: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    *,
    out: Path,
    tokenizer: tyro.conf.OmitArgPrefixes[TokenizerSettings],
    job: tyro.conf.OmitArgPrefixes[JobSettings] = DEFAULTS,
    format: AudioFormat = "manifest",
    naming: tyro.conf.OmitArgPrefixes[Naming] = BY_NAME,
    root: Path | None = None,
) -> Corpus | None:
    """Turn recordings into units and write them as a corpus; under torchrun, on many GPUs.

    What is finished is kept in {out}.parts: a run that was stopped or killed goes on with the same
    command, on any number of processes, and comes to the same corpus.

    Args:
        manifests: JSON lines or CSV of recordings, or files of `format` (docs/format.md).
        out: Folder of the corpus; must not exist, or be empty.
        tokenizer: Which tokenizer.
        job: How it is used.
        format: Our manifest, JSON lines of moshi-finetune, WebDataset tars or cuts of Lhotse.
        naming: How names become keys and languages, where they are not in a manifest.
        root: Folder of the audio, where moshi-finetune's or Lhotse's paths do not lead there.
    """
    check_packages()
    from tresse.data.audio.tokenise import tokenise

    recordings = _read(manifests, format, naming, root)
    prepared = tokenise(recordings, load_tokenizer(tokenizer), out, job, tokenizer.variant)
    print(prepared.report)
    return None if prepared.found else prepared.corpus


def fit_kmeans(
    manifests: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    *,
    out: Path,
    units: int = 500,
    hours: float = 10.0,
    seed: int = 0,
    format: AudioFormat = "manifest",
    naming: tyro.conf.OmitArgPrefixes[Naming] = BY_NAME,
    root: Path | None = None,
) -> None:
    """Fit k-means units on a sample of recordings, for `audio --tokenizer kmeans --kmeans OUT`.

    Args:
        manifests: JSON lines or CSV of recordings, or files of `format` (docs/format.md).
        out: File of the units, .safetensors.
        units: How many.
        hours: Audio to fit them on, drawn from all recordings.
        seed: Draws the sample and the first centroids.
        format: As of `audio`.
        naming: As of `audio`.
        root: As of `audio`.
    """
    check_packages()
    from tresse.data.audio.kmeans import fit

    fitted = fit(_read(manifests, format, naming, root), units, out, hours=hours, seed=seed)
    print(f"wrote {out}: {units} units, {fitted.identity.hash}")


def _read(
    manifests: Sequence[Path], format: AudioFormat, naming: Naming, root: Path | None
) -> list[Recording]:
    recordings = read_audio(manifests, format, naming, root)
    if not recordings:
        raise ValueError(f"no recordings in {', '.join(map(str, manifests))}")
    return recordings


def check_packages() -> None:
    """Raise ValueError unless the extra is installed; importing them all would take a while."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ValueError(f"audio needs {', '.join(missing)}: pip install 'tresse[audio]'")


COMMANDS = {"audio": prepare_audio, "fit-kmeans": fit_kmeans}
