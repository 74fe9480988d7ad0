"""The commands of `data/prepare.py` that read audio."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import tyro

from tresse.data.audio.job_settings import JobSettings
from tresse.data.audio.readers.any_format import NO_COLUMNS, AudioFormat, read_audio
from tresse.data.audio.readers.audio_table import AudioColumns
from tresse.data.audio.recordings import Recording
from tresse.data.audio.tokenizers import TokenizerSettings, load_tokenizer
from tresse.data.left_out import LeftOut
from tresse.data.naming import Naming
from tresse.data.processes import rank
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
    columns: AudioColumns = NO_COLUMNS,
    split: str = "",
) -> Corpus | None:
    """Turn recordings into units and write them as a corpus; with torchrun, on many GPUs.

    If it is stopped or killed, the same command resumes it, on any number of processes, and writes
    the same corpus. {out}.parts keeps the finished work.

    Args:
        manifests: JSON lines or CSV that list recordings, or files or folders of another --format.
            docs/format.md describes them.
        out: Folder of the corpus; it must not exist, or be empty.
        tokenizer: The tokenizer and its settings.
        job: Rules and speed of the work.
        format: Format of the input: our manifest, or that of moshi-finetune, WebDataset or Lhotse.
            `table` is Parquet, Arrow or a folder of Hugging Face datasets with sounds in a column.
        naming: Rules that turn file names into keys and languages; a manifest needs none.
        root: Folder that relative paths of moshi-finetune, Lhotse or a table start from.
            The default is the current folder for Lhotse, the folder of the list or table otherwise.
        columns: Names of the columns of tables.
        split: Split of tables to read, such as "train"; needed where a folder has several.
    """
    check_packages()
    from tresse.data.audio.tokenise import tokenise

    left_out = LeftOut(job.on_fault, shows=rank() == 0)
    recordings = _read(manifests, format, naming, root, left_out, columns, split)
    prepared = tokenise(
        recordings, load_tokenizer(tokenizer), out, job, tokenizer.variant, left_out.faults
    )
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
    columns: AudioColumns = NO_COLUMNS,
    split: str = "",
) -> None:
    """Fit k-means units on a sample of recordings, for `audio --tokenizer kmeans --kmeans OUT`.

    Args:
        manifests: JSON lines or CSV that list recordings, or files or folders of another --format.
            docs/format.md describes them.
        out: File to write the units to, .safetensors. It must not exist.
        units: Number of units.
        hours: Hours of audio to fit the units on, drawn from all recordings.
        seed: Seed of the draw of the sample and of the first centroids.
        format: Kind of the input, as for `audio`.
        naming: Rules that turn file names into keys and languages, as for `audio`.
        root: Folder in which paths start, as for `audio`.
        columns: Names of the columns of tables, as for `audio`.
        split: Split of tables to read, as for `audio`.
    """
    check_packages()
    from tresse.data.audio.kmeans import fit

    recordings = _read(manifests, format, naming, root, LeftOut("skip"), columns, split)
    fitted = fit(recordings, units, out, hours=hours, seed=seed)
    print(f"wrote {out}: {units} units, {fitted.identity.hash}")


def _read(
    manifests: Sequence[Path],
    format: AudioFormat,
    naming: Naming,
    root: Path | None,
    left_out: LeftOut,
    columns: AudioColumns,
    split: str,
) -> list[Recording]:
    recordings = read_audio(manifests, format, naming, root, left_out, columns, split)
    if not recordings:
        raise ValueError(f"no recordings in {', '.join(map(str, manifests))}")
    return recordings


def check_packages() -> None:
    """Raise ValueError unless the extra [audio] is installed; imports nothing, as that is slow."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ValueError(f"audio needs {', '.join(missing)}: pip install 'tresse[audio]'")


COMMANDS = {"audio": prepare_audio, "fit-kmeans": fit_kmeans}
