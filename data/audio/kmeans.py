"""Units without a download: k-means over MFCCs at 12.5 Hz.

The features are Kaldi's MFCCs (13 coefficients every 10 ms, of 16 kHz, without dither). Each 80 ms
are two means of 40 ms, minus the mean of the sample and divided by its standard deviation. These
are the classic units of speech before networks learnt better ones: they carry sounds rather than
meaning, but are fitted on a user's own recordings in minutes. A file of units is a safetensors file
with `centroids` float32 [K, 26], `mean` and `scale` float32 [26], and the settings in its metadata;
also `spectra` float32 [K, 2, 257], by which units can be heard (vocoder.py). Older files lack them.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm

from tresse.data.audio.job_settings import JobSettings
from tresse.data.audio.recordings import Recording
from tresse.data.audio.sources import Span
from tresse.data.audio.vocoder import Frames, fit_spectra
from tresse.data.audio.waveforms import check_sound, read_spans
from tresse.data.durable import replaced_file
from tresse.data.store.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

FORMAT, VERSION = "tresse-kmeans", 1
SOUND = JobSettings()
BATCH_FRAMES = 4096
MIN_FRAMES_PER_UNIT = 10


@dataclass(frozen=True)
class Features:
    """Settings by which 80 ms of sound become a vector."""

    sample_rate: int = 16_000
    num_mels: int = 40
    num_coefficients: int = 13
    shift_ms: int = 10
    window_ms: int = 25
    frame_ms: int = 80
    parts: int = 2
    """Means within a frame, one after the other."""

    @property
    def frame_samples(self) -> int:
        """Samples of a frame."""
        return self.sample_rate * self.frame_ms // 1000

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.parts * self.num_coefficients

    @property
    def frames(self) -> Frames:
        """The same frames and parts as the vocoder sees them."""
        return Frames(sample_rate=self.sample_rate, frame_ms=self.frame_ms, parts=self.parts)

    def compute(self, waveform: np.ndarray) -> np.ndarray:
        """Return float32 [ceil(samples / frame_samples), width] for float32 [samples]."""
        num_frames = -(-waveform.size // self.frame_samples)
        # Kaldi's scale is that of 16-bit integers.
        padded = np.pad(waveform * 32768, (0, num_frames * self.frame_samples - waveform.size))
        mfcc = kaldi_native_fbank.OnlineMfcc(self._options())
        mfcc.accept_waveform(self.sample_rate, padded)  # pyright: ignore[reportArgumentType]
        mfcc.input_finished()
        shifts = np.stack([mfcc.get_frame(i) for i in range(mfcc.num_frames_ready)])
        means = shifts.reshape(num_frames, self.parts, -1, self.num_coefficients).mean(axis=2)
        return means.reshape(num_frames, self.width)

    def _options(self) -> kaldi_native_fbank.MfccOptions:
        options = kaldi_native_fbank.MfccOptions()
        options.num_ceps = self.num_coefficients
        options.mel_opts.num_bins = self.num_mels
        frame = options.frame_opts
        frame.samp_freq = self.sample_rate
        frame.frame_shift_ms = self.shift_ms
        frame.frame_length_ms = self.window_ms
        frame.dither = 0
        frame.snip_edges = False  # a vector for every shift of the waveform
        return options


@dataclass(frozen=True, eq=False)
class KMeansUnits:
    """An `AudioTokenizer` whose units are the nearest centroid of every 80 ms."""

    identity: Tokenizer
    features: Features
    centroids: np.ndarray
    """float32 [K, width], for features less `mean`, divided by `scale`."""
    mean: np.ndarray
    """float32 [width]."""
    scale: np.ndarray
    """float32 [width]."""
    spectra: np.ndarray | None = None
    """float32 [K, parts, num_bins], as in `vocoder.py`; None if the file has none."""

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz of the waveforms that `encode` takes."""
        return self.features.sample_rate

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the units of each waveform, int64 [ceil(samples / 1280)].

        waveforms: mono, float32 [samples], 16 kHz.
        """
        # |x - c|^2 less |x|^2, in fp64, so that no unit depends on how BLAS splits the product.
        centroids = self.centroids.astype(np.float64)
        squares = (centroids**2).sum(axis=1)
        units = []
        for waveform in waveforms:
            vectors = self._normalise(self.features.compute(waveform))
            units.append(np.argmin(squares - 2 * vectors @ centroids.T, axis=1))
        return units

    def decode(self, units: np.ndarray) -> np.ndarray:
        """Return the sound of units, integers [num_frames]: float32 [1280 * num_frames], 16 kHz.

        ValueError if the file has no spectra.
        """
        if self.spectra is None:
            raise ValueError(
                f"k-means units {self.identity.hash} cannot be heard: an older fit-kmeans wrote "
                "their file, without spectra; fit units again to hear them"
            )
        return self.features.frames.synthesise(self.spectra[units])

    def _normalise(self, vectors: np.ndarray) -> np.ndarray:
        return (vectors.astype(np.float64) - self.mean) / self.scale

    @staticmethod
    def open(path: Path) -> "KMeansUnits":
        """Read a file that `fit` wrote; ValueError names the file and its fault."""
        try:
            content = path.read_bytes()
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: cannot be read as k-means units ({error})") from None
        settings = json.loads(metadata.get(FORMAT, "{}"))
        if settings.get("version") != VERSION:
            raise ValueError(f"{path}: not a file that fit-kmeans wrote (version {VERSION})")
        features = Features(**settings["features"])
        return _build(features, tensors, xxhash.xxh3_64_hexdigest(content))


def fit(
    recordings: Sequence[Recording],
    num_units: int,
    out: Path,
    *,
    hours: float = 10.0,
    seed: int = 0,
) -> KMeansUnits:
    """Fit units on `hours` of the recordings, drawn by the seed, and write them to `out`.

    The same recordings and seed give the same file. At the first sentence that cannot be read, is
    silent or is very short (the defaults of `JobSettings`), the rest of its recording is left out
    with a warning. ValueError when the rest is too short for so many units.
    """
    from sklearn.cluster import MiniBatchKMeans  # only fitting needs it

    if num_units < 1:
        raise ValueError(f"--units is {num_units}, expected at least 1")
    if not 0 < hours < inf:
        raise ValueError(f"--hours is {hours}, expected a finite number above 0")
    if out.exists():
        raise ValueError(f"{out} exists; choose another file or remove it")
    features, used = Features(), []
    sampled = list(_sample(recordings, features, hours, seed, used))
    vectors = np.concatenate([np.empty((0, features.width), np.float32), *sampled])
    if len(vectors) < MIN_FRAMES_PER_UNIT * num_units:
        raise ValueError(
            f"found {len(vectors)} frames of 80 ms for {num_units} units, expected at least "
            f"{MIN_FRAMES_PER_UNIT} for each; give more recordings or ask for fewer units"
        )
    mean = vectors.mean(axis=0, dtype=np.float64)
    scale = np.maximum(vectors.std(axis=0, dtype=np.float64), 1e-6)
    kmeans = MiniBatchKMeans(num_units, batch_size=BATCH_FRAMES, random_state=seed)
    fitted = kmeans.fit((vectors - mean) / scale)
    tensors = {"centroids": fitted.cluster_centers_, "mean": mean, "scale": scale}
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    tensors["spectra"] = _fit_spectra(_build(features, tensors, ""), used)
    settings = json.dumps({"version": VERSION, "features": asdict(features)})
    out.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(out) as file:
        # One field of metadata: safetensors writes several in any order.
        file.write(save(tensors, {FORMAT: settings}))
    return KMeansUnits.open(out)


def _sample(
    recordings: Sequence[Recording], features: Features, hours: float, seed: int, used: list[Span]
) -> Iterator[np.ndarray]:
    """Yield vectors of recordings, in an order drawn by the seed, until `hours` are reached.

    used: gets the sentences that they are of.
    """
    left, rate = round(hours * 3_600_000 / features.frame_ms), features.sample_rate
    order = np.random.default_rng(seed).permutation(len(recordings))
    for index in order:
        try:
            spans = recordings[index].sentences
            for span, waveform in zip(spans, read_spans(spans, rate), strict=True):
                check_sound(waveform, rate, span.source, SOUND.min_seconds, SOUND.silence_db)
                vectors = features.compute(waveform)[:left]
                left -= len(vectors)
                used.append(span)
                yield vectors
                if not left:
                    return
        except ValueError as error:
            logger.warning("left out %s: %s", recordings[index], error)


def _fit_spectra(units: KMeansUnits, used: Sequence[Span]) -> np.ndarray:
    """Return the mean spectra of units in the sentences that they were fitted on."""
    waveforms = read_spans(used, units.sample_rate)
    shown = tqdm(waveforms, total=len(used), desc="spectra", disable=None)
    examples = ((waveform, units.encode([waveform])[0]) for waveform in shown)
    return fit_spectra(examples, units.identity.vocab_size, units.features.frames)


def _build(features: Features, tensors: dict[str, np.ndarray], hash_: str) -> KMeansUnits:
    centroids, mean, scale = (tensors[name] for name in ("centroids", "mean", "scale"))
    assert centroids.shape[1:] == mean.shape == scale.shape == (features.width,)
    identity = Tokenizer("kmeans", hash_, "25/2", len(centroids))
    return KMeansUnits(identity, features, centroids, mean, scale, tensors.get("spectra"))
