"""The packer against its definition in plain Python, byte for byte."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from tests.support.labels import counted_labels
from tests.support.memory_corpus import memory_corpus, random_texts
from tresse.data.packing.packer import Batch, Plan, plan_rows
from tresse.data.packing.reference import Row, reference_rows
from tresse.data.packing.settings import Mode, Packing, Stream
from tresse.data.store.corpus import Corpus

LANGUAGES = ("de", "en", "fr", "it")


def expected_batch(rows: Sequence[Row], T: int, dtype: type) -> Batch:
    """The batch of some reference rows."""
    tokens, num_valid = np.zeros((len(rows), T + 1), dtype), np.zeros(len(rows), np.int32)
    cuts, spans, languages = [], [], []
    for r, row in enumerate(rows):
        num_valid[r] = row.num_valid
        language = None
        for column, token in enumerate(row.tokens):
            tokens[r, column] = token.id
            if column == 0 or (token.starts and column < T):
                cuts.append(r * T + column)
            if token.language != language:
                spans.append(r * (T + 1) + column)
                languages.append(language := token.language)
        if not row.tokens:
            cuts.append(r * T)
            spans.append(r * (T + 1))
            languages.append(0)
        elif len(row.tokens) < T:
            cuts.append(r * T + len(row.tokens))
    cuts.append(len(rows) * T)
    spans.append(len(rows) * (T + 1))
    return Batch(
        tokens,
        num_valid,
        np.array(cuts, np.int32),
        np.array(spans, np.int32),
        np.array(languages, np.uint8),
    )


def assert_same(found: Batch, expected: Batch) -> None:
    for name in ("tokens", "num_valid", "cu_seqlens", "span_starts", "span_languages"):
        left, right = getattr(found, name), getattr(expected, name)
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(left, right, err_msg=name)


def fill_all(plan: Plan, sizes: Sequence[int] = (1 << 20,), threads: int = 1) -> list[Batch]:
    """All rows in batches of the given sizes, taken in turns."""
    batches, first = [], 0
    while first < plan.num_rows:
        size = min(sizes[len(batches) % len(sizes)], plan.num_rows - first)
        batches.append(plan.fill(first, size, threads=threads))
        first += size
    return batches


@st.composite
def corpora(draw: st.DrawFn) -> Corpus:
    """1 to 4 languages, 1 to 11 documents, some of them in one language only."""
    languages = LANGUAGES[: draw(st.integers(1, 4))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    texts = random_texts(
        rng,
        languages,
        draw(st.integers(1, 11)),
        max_sentences=draw(st.integers(1, 6)),
        max_tokens=draw(st.sampled_from([1, 2, 9])),
    )
    for language in languages[: draw(st.integers(0, 4))]:
        extra = random_texts(rng, [language], 3)[language]
        texts[language] |= {f"only {language} {key}": text for key, text in extra.items()}
    vocab_size = draw(st.sampled_from([2048, 65536, 70000]))
    return memory_corpus(texts, vocab_size=vocab_size, num_shards=draw(st.integers(1, 3)))


@st.composite
def streams_of(draw: st.DrawFn, corpus: Corpus) -> Stream:
    available = corpus.languages
    modes: list[Mode] = ["mono", "alternate", "sample"]
    mode = draw(st.sampled_from(modes if len(available) > 1 else modes[:1]))
    num = 1 if mode == "mono" else draw(st.integers(2, len(available)))
    languages = tuple(draw(st.permutations(available))[:num])
    probabilities: tuple[float, ...] = ()
    if mode == "sample" and draw(st.booleans()):
        parts = draw(st.lists(st.integers(1, 5), min_size=num, max_size=num))
        probabilities = tuple(part / sum(parts) for part in parts)
    return Stream(
        languages=languages,
        mode=mode,
        weight=draw(st.sampled_from([0.1, 0.3, 1.0, 2.0])),
        probabilities=probabilities,
        language_order=draw(st.sampled_from(["fixed", "random"])),
    )


def _with_targets(packing: Packing) -> Packing:
    """Mend what may leave a short document, or a piece of one, without any target."""
    if packing.row_length == 1 and packing.mode == "best_fit":
        return Packing(row_length=1)  # pieces of two tokens leave others with one
    if packing.mask_documents and packing.separators == "none":
        return replace(packing, separators="eos")
    return packing


packings = st.builds(
    Packing,
    row_length=st.sampled_from([1, 2, 5, 16, 31]),
    mode=st.sampled_from(["concat", "best_fit"]),
    separators=st.sampled_from(["none", "eos", "bos_eos"]),
    language_switch=st.booleans(),
    mask_documents=st.booleans(),
).map(_with_targets)


def plan_or_reject(corpus: Corpus, *args: Any, **kwargs: Any) -> Plan:
    """`plan_rows`, without the examples whose documents are one token each."""
    try:
        return plan_rows(corpus, *args, **kwargs)
    except ValueError as error:
        if "no targets" not in str(error):
            raise
        reject()


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_rows_are_those_of_the_reference(data):
    corpus = data.draw(corpora())
    streams = data.draw(st.lists(streams_of(corpus), min_size=1, max_size=3))
    packing = data.draw(packings)
    kwargs = {
        "tokens": data.draw(st.integers(100, 400)),
        "seed": data.draw(st.integers(0, 2**64 - 1)),
        "stage": data.draw(st.integers(0, 3)),
    }
    plan = plan_or_reject(corpus, streams, packing, **kwargs)
    rows = reference_rows(corpus, streams, packing, **kwargs)
    assert plan.num_rows == len(rows)
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    threads = data.draw(st.integers(1, 4))
    first = counted = 0
    for batch in fill_all(plan, sizes, threads):
        chunk = rows[first : first + len(batch.tokens)]
        first += len(chunk)
        counted += int(counted_labels(batch, packing.mask_documents).sum())
        assert_same(batch, expected_batch(chunk, packing.row_length, plan.vocabulary.dtype))
    assert counted == kwargs["tokens"]
