"""What streams of words, documents, given languages and templates look like, by examples."""

from typing import Any

import numpy as np
import pytest

from tests.support.corpora.in_memory import memory_corpus
from tresse.data.packing.packer import Batch, plan_rows
from tresse.data.packing.settings import Packing, Stream, Template
from tresse.data.store.corpus import Corpus

# Of the text 2,048 is the first id: units come first.
UNITS = {"a": [[10, 11, 12], [20]]}
TEXT = {"a": [[1, 2], [3]]}
WORDS = {"en": {"a": [[1, 2], [1]]}, "en-text": {"a": [[1, 1], [1]]}}


def corpus(**options: Any) -> Corpus:
    texts = {"en": UNITS, "en-text": TEXT}
    return memory_corpus(texts, text=["en-text"], words=WORDS, **options)


def first_document(stream: Stream, packing: Packing, tokens: int) -> tuple[list[int], list[bool]]:
    """Return the ids of the first document, and which of them are targets."""
    batch = plan_rows(corpus(), [stream], packing, tokens=tokens, seed=0, stage=0).fill(0, 1)
    return batch.tokens[0].tolist(), batch.counted()[0].tolist()


def test_speech_before_its_text_is_recognition_and_only_the_text_counts():
    stream = Stream(
        languages=("en-text",),
        given=("en",),
        loss_on=("en-text",),
        templates=(
            Template(language="en", before="<say>", after="</say>"),
            Template(language="en-text", before="<asr>"),
        ),
    )
    packing = Packing(row_length=10, separators="eos", tags=("<say>", "</say>", "<asr>"))
    ids, counted = first_document(stream, packing, tokens=4)
    eos, say, said, asr = 72048, 72051, 72052, 72053
    assert ids == [say, 10, 11, 12, 20, said, asr, 2049, 2050, 2051, eos]
    assert counted == [False] * 7 + [True] * 4, "a tag counts as the token before it"


def test_words_alternate_in_groups_that_end_with_their_sentence():
    stream = Stream(
        languages=("en-text", "en"),
        mode="alternate",
        language_order="fixed",
        unit="words",
    )
    ids, _ = first_document(stream, Packing(row_length=6), tokens=6)
    assert ids == [2049, 10, 2050, 11, 12, 2051, 20]
    pairs = Stream(
        languages=("en-text", "en"),
        mode="alternate",
        language_order="fixed",
        unit="words",
        words=(2, 2),
    )
    ids, _ = first_document(pairs, Packing(row_length=6), tokens=6)
    assert ids == [2049, 2050, 10, 11, 12, 2051, 20]


def test_whole_documents_need_no_equal_sentences():
    texts = {"en": {"a": [[1], [2]]}, "fr": {"a": [[5]]}}
    stream = Stream(
        languages=("fr", "en"), mode="alternate", language_order="fixed", unit="document"
    )
    plan = plan_rows(
        memory_corpus(texts), [stream], Packing(row_length=2), tokens=2, seed=0, stage=0
    )
    assert plan.fill(0, 1).tokens.tolist() == [[5, 1, 2]]


def test_drawn_words_use_each_of_them_once_per_language_in_as_many_epochs():
    stream = Stream(languages=("en", "en-text"), mode="sample", unit="words", words=(1, 2))
    plan = plan_rows(corpus(), [stream], Packing(row_length=1), tokens=100, seed=3, stage=0)
    found = np.sort(plan.fill(0, 7).tokens[:, 0]).tolist()  # two epochs hold seven tokens
    assert found == sorted([10, 11, 12, 20, 2049, 2050, 2051])


def test_budgets_count_targets_alone():
    stream = Stream(languages=("en",), given=("en-text",), loss_on=("en",))
    for mask in (False, True):
        packing = Packing(row_length=5, mask_documents=mask)
        plan = plan_rows(corpus(), [stream], packing, tokens=33, seed=0, stage=0)
        batch: Batch = plan.fill(0, plan.num_rows)
        valid = np.arange(5) < batch.num_valid[:, None]
        assert (batch.counted()[:, 1:] & valid).sum() == 33
        (described,) = plan.streams
        assert described.targets == {"en-text": 0.0, "en": 33.0}
        assert described.epochs == pytest.approx(33 / 4)


def test_rows_too_narrow_for_the_tokens_of_text_are_refused():
    plan = plan_rows(
        corpus(), [Stream(languages=("en",))], Packing(row_length=4), tokens=4, seed=0, stage=0
    )
    assert plan.vocabulary.dtype == np.uint32
    narrow: dict[Any, Any] = {np.uint32: np.uint16}
    with pytest.raises(ValueError, match="tokens must be uint32, as tokens of the corpus are"):
        plan.fill(0, 1, allocate=lambda shape, dtype: np.empty(shape, narrow.get(dtype, dtype)))


def test_documents_that_are_cut_are_counted():
    plan = plan_rows(
        memory_corpus({"en": {"a": [[1] * 9], "b": [[1] * 3]}}),
        [Stream(languages=("en",))],
        Packing(row_length=4, mode="best_fit"),
        tokens=8,
        seed=0,
        stage=0,
    )
    assert plan.streams[0].num_cut == 1
    assert "1 longer than a row are cut" in plan.summary()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"given": ("en",)}, "named twice"),
        ({"loss_on": ("fr",)}, "loss_on has 'fr'"),
        ({"unit": "words"}, "mono takes whole documents"),
        ({"words": (2, 3)}, "words are for unit words"),
        ({"templates": (Template(language="fr"),)}, "templates has 'fr'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Stream(languages=("en",), **settings)


def test_what_a_stream_needs_and_a_corpus_lacks_is_named():
    words = Stream(languages=("en", "fr"), mode="sample", unit="words")
    how: Any = {"tokens": 2, "seed": 0, "stage": 0}
    texts = {"en": UNITS, "fr": {"a": [[1, 2, 3], [4]]}}
    with pytest.raises(ValueError, match="documents of en have no words"):
        plan_rows(memory_corpus(texts), [words], Packing(row_length=2), **how)
    lengths = {"en": {"a": [[1, 2], [1]]}, "fr": {"a": [[1, 1, 1], [1]]}}
    with pytest.raises(ValueError, match="sentence 0 has 2 words in en, 3 words in fr"):
        plan_rows(memory_corpus(texts, words=lengths), [words], Packing(row_length=2), **how)
    asked = Stream(languages=("en",), templates=(Template(language="en", before="Say "),))
    with pytest.raises(ValueError, match="'Say ' is no tag of the packing, and no language"):
        plan_rows(memory_corpus({"en": UNITS}), [asked], Packing(row_length=2), **how)
