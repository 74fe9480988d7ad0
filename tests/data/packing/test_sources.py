"""Several corpora under one stage: the share of each, and what is refused."""

import numpy as np
import pytest

from tests.support.corpora.in_memory import memory_corpus, random_texts
from tresse.data.packing.packer import Plan, plan_mixed_rows
from tresse.data.packing.settings import Packing, Stream
from tresse.data.packing.sources import Sources
from tresse.data.store.corpus import Corpus

EN, BRAID = Stream(languages=("en",)), Stream(languages=("en", "fr"), mode="sample")
TARGETS = 4000


def corpus(name: str, languages: tuple[str, ...], num_documents: int) -> Corpus:
    texts = random_texts(np.random.default_rng(num_documents), languages, num_documents)
    return memory_corpus(texts, name=name)


SPEECH = corpus("data/speech", ("en",), 90)
STORIES = corpus("data/stories", ("en", "fr"), 30)


def plan(sources: Sources, *streams: Stream) -> Plan:
    return plan_mixed_rows(
        sources, streams, Packing(row_length=16), tokens=TARGETS, seed=0, stage=0
    )


def test_by_default_every_document_is_as_frequent_in_each_corpus():
    speech, stories = plan(Sources((SPEECH, STORIES)), EN).streams
    assert (speech.name, stories.name) == ("en mono of speech", "en mono of stories")
    assert speech.epochs == pytest.approx(stories.epochs, rel=1e-3)
    assert speech.num_targets + stories.num_targets == TARGETS


def test_weights_share_the_targets_of_a_stream_among_the_corpora_that_have_it():
    planned = plan(Sources((SPEECH, STORIES), weights=(3.0, 1.0)), EN, BRAID)
    targets = {stream.name: stream.num_targets for stream in planned.streams}
    assert targets == {
        "en mono of speech": TARGETS * 3 / 8,
        "en mono of stories": TARGETS / 8,
        "en+fr sample of stories": TARGETS / 2,
    }


def test_documents_of_both_corpora_are_in_the_rows_under_their_language():
    german = corpus("data/german", ("de",), 20)
    planned = plan(Sources((german, STORIES)), Stream(languages=("de",)), Stream(languages=("fr",)))
    assert planned.languages == ("de", "en", "fr")
    batch = planned.fill(0, planned.num_rows)
    for number, read, name in ((0, german, "de"), (2, STORIES, "fr")):
        units = set(np.concatenate([shard.tokens for shard in read.shards[name]]).tolist())
        found = set(batch.tokens[batch.language_ids() == number].tolist())
        assert found == units, "all of a language, and no other's"


def test_what_does_not_fit_together_is_refused():
    french = corpus("data/french", ("fr",), 30)
    with pytest.raises(ValueError, match="no corpus has all of en, fr; `tresse merge` makes one"):
        plan(Sources((SPEECH, french)), BRAID)
    with pytest.raises(ValueError, match="no language 'it'; there are en, fr"):
        plan(Sources((SPEECH, french)), Stream(languages=("it",)))
    with pytest.raises(ValueError, match="2 weights for 1 corpora: data/speech"):
        Sources((SPEECH,), weights=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"weights of corpora are \(1.0, 0.0\); expected numbers"):
        Sources((SPEECH, STORIES), weights=(1.0, 0.0))
    with pytest.raises(ValueError, match="a corpus is named twice"):
        Sources((SPEECH, SPEECH))
    other = memory_corpus({"en": {"a": [[1]]}}, vocab_size=70000, name="data/other")
    with pytest.raises(ValueError, match=r"data/other: en has test .*, but others of test"):
        Sources((SPEECH, other))
