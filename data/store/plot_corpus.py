"""The lengths and the use of units of a corpus, drawn. Needs matplotlib."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tresse.data.durable import staged_file
from tresse.data.store.corpus import Corpus

NUM_BINS = 60


def plot_corpus(corpus: Corpus, counts: Mapping[str, np.ndarray], out: Path) -> None:
    """Draw lengths of documents and sentences, and the units by frequency, as a PNG.

    counts: occurrences of each unit per language, of `unit_usage.count_units`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("plots need matplotlib: pip install 'tresse[plot]'") from None
    figure = Figure(figsize=(13, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    for ax, name in zip(axes, ("document", "sentence"), strict=False):
        lengths = {
            language: np.concatenate([getattr(shard, f"{name}_lengths") for shard in shards])
            for language, shards in corpus.shards.items()
        }
        top = max(int(own.max()) for own in lengths.values())
        edges = np.unique(np.geomspace(1, top + 1, NUM_BINS).round())
        for language, own in lengths.items():
            ax.hist(own, bins=edges, histtype="step", label=language)
        ax.set(title=f"units per {name}", xlabel="units", ylabel=f"{name}s", xscale="log")
    for language, own in counts.items():
        axes[2].plot(np.sort(own)[::-1] / own.sum(), label=language)
    axes[2].set(title="units by frequency", xlabel="rank", ylabel="share", yscale="log")
    for ax in axes:
        ax.legend()
    figure.suptitle(f"{corpus.path.name}  {corpus.id[:12]}")
    with staged_file(out) as file:
        figure.savefig(file, format="png", dpi=120)
