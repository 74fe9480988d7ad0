"""Cloze scores and similarities against plain definitions, on one rank and on two."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.multiprocessing.spawn import spawn

from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.cloze import Item
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.model import Transformer
from tresse.engine.run.config import ModelConfig
from tresse.engine.run.ranks import Ranks
from tresse.engine.scoring.accuracy import accuracies
from tresse.engine.scoring.padded import padded_batches, plan_batches
from tresse.engine.scoring.questions import MEASURES, Answer, ask, language_pairs
from tresse.engine.scoring.score import answer, to_jsonl
from tresse.engine.scoring.similarity import measure_similarity, retrieval

VOCAB, BOS, SWITCH = 60, 60, 61
UNITS = Tokenizer("test", "", "25/2", VOCAB)
VOCABULARY = Vocabulary((UNITS,))
BATCH_TOKENS = 140  # an odd number of batches: the last round has one for one rank of two
ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
CONFIG = ModelConfig(
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    init_std=0.2,
)
PAIRS = language_pairs(["en", "fr"])


class Sum(nn.Module):
    """A model in which the loss of a token is its number, whatever came before it."""

    def forward(
        self, tokens: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert tokens.shape == labels.shape
        losses = torch.where(labels == -100, 0.0, labels.float())
        return losses.sum(), losses


def transformer() -> Transformer:
    model = Transformer(CONFIG, vocab_width=128, vocab_used=62)
    model.init_weights(seed=3)
    return model


def corpus(folder: Path, documents: dict[str, dict[str, list[list[int]]]]) -> Corpus:
    """Write and open: language -> key -> sentences."""
    listed = [
        Document(key, language, [np.array(sentence, np.uint16) for sentence in sentences])
        for language, own in documents.items()
        for key, sentences in own.items()
    ]
    write_corpus(folder, listed, UNITS)
    return Corpus.open(folder)


def random_cloze(folder: Path) -> tuple[Corpus, list[Item]]:
    """Twelve items of two tasks, one without prompts, in two languages."""
    rng = np.random.default_rng(0)
    documents: dict[str, dict[str, list[list[int]]]] = {"en": {}, "fr": {}}
    items = []
    for number in range(12):
        task, prompt = ("sSC", f"{number}/prompt") if number % 3 else ("sWUGGY", None)
        keys = [f"{number}/good", f"{number}/bad"]
        items.append(
            Item(task=task, id=str(number), prompt=prompt, correct=keys[0], incorrect=keys[1])
        )
        for key in [*keys, *([prompt] if prompt else [])]:
            for own in documents.values():
                sentences = 3 if key == prompt else 1
                own[key] = [
                    rng.integers(0, VOCAB, rng.integers(2, 9)).tolist() for _ in range(sentences)
                ]
    return corpus(folder, documents), items


def score(model: nn.Module, held: Corpus, items: Sequence[Item], **options) -> list[Answer]:
    how = {"batch_tokens": BATCH_TOKENS, "ranks": ALONE}
    how |= {name: options.pop(name) for name in list(options) if name in how}
    questions = ask(held, items, VOCABULARY, **({"pairs": PAIRS, "row_length": 64} | options))
    return answer(model, questions, **how)


SMALL = {
    "en": {"p": [[1, 2], [3]], "good": [[4, 5]], "bad": [[6]]},
    "fr": {"p": [[11], [12]], "good": [[13]], "bad": [[14, 15, 16]]},
}
ITEM = Item(task="sSC", id="1", prompt="p", correct="good", incorrect="bad")


def measures(full: list[int], continuation: list[int]) -> dict[str, float]:
    values = [-sum(full), -sum(full) / len(full), -sum(continuation)]
    return dict(zip(MEASURES, [*values, -sum(continuation) / len(continuation)], strict=True))


def test_measures_without_a_prefix_leave_out_the_first_token(tmp_path: Path):
    scores = {s.pair: s for s in score(Sum(), corpus(tmp_path / "c", SMALL), [ITEM])}
    assert list(scores) == ["en", "fr", "en->fr", "fr->en"]
    assert scores["en"].correct == measures([2, 3, 4, 5], [4, 5])
    assert scores["en"].incorrect == measures([2, 3, 6], [6])
    assert scores["en->fr"].correct == measures([2, 3, 13], [13])
    assert scores["fr->en"].incorrect == measures([12, 6], [6])


def test_prefix_and_switch_are_context_of_the_continuation(tmp_path: Path):
    held = corpus(tmp_path / "c", SMALL)
    options = {"prefix_token": BOS, "switch_token": SWITCH}
    scores = {s.pair: s for s in score(Sum(), held, [ITEM], **options)}
    assert scores["fr"].correct == measures([11, 12, 13], [13])
    assert scores["en->fr"].incorrect == measures([1, 2, 3, SWITCH, 14, 15, 16], [14, 15, 16])


@pytest.mark.parametrize("prefix", [None, BOS])
def test_items_without_a_prompt_have_one_language_and_a_continuation_that_is_all(
    prefix: int | None, tmp_path: Path
):
    held = corpus(tmp_path / "c", {"en": {"good": [[4, 5], [6]], "bad": [[7, 8]]}})
    item = Item(task="sBLIMP", id="1", prompt=None, correct="good", incorrect="bad")
    (only,) = score(Sum(), held, [item], pairs=[("en", "en"), ("fr", "en")], prefix_token=prefix)
    tokens = [5, 6] if prefix is None else [4, 5, 6]
    assert only.pair == "en"
    assert only.correct == measures(tokens, tokens)


@pytest.mark.parametrize("prefix", [None, BOS])
def test_scores_of_a_transformer_are_log_probabilities_of_each_sequence_alone(
    prefix: int | None, tmp_path: Path
):
    held, items = random_cloze(tmp_path / "c")
    model = transformer()
    scores = score(model, held, items, prefix_token=prefix)
    by_id = {item.id: item for item in items}
    assert len(scores) == 8 * 4 + 4 * 2

    def read(language: str, key: str) -> list[int]:
        return np.concatenate(held.document(language, held.find(language, key))).tolist()

    for each in scores:
        item, (first, *_), last = by_id[each.id], each.pair.split("->"), each.pair[-2:]
        before = [] if prefix is None else [prefix]
        before += read(first, item.prompt) if item.prompt else []
        for key, found in ((item.correct, each.correct), (item.incorrect, each.incorrect)):
            tokens = torch.tensor([before + read(last, key)])
            logits = model(tokens)[0, :-1].double()
            logprobs = logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
            ending = logprobs[max(0, len(before) - 1) :]
            expected = [logprobs.sum(), logprobs.mean(), ending.sum(), ending.mean()]
            got = [found[measure] for measure in MEASURES]
            torch.testing.assert_close(got, [x.item() for x in expected], rtol=1e-5, atol=1e-5)


def test_an_item_is_asked_in_its_own_languages(tmp_path: Path):
    held = corpus(tmp_path / "c", {**SMALL, "de": {"w": [[1, 2]], "n": [[3, 4]]}})
    word = Item(task="t", id="2", prompt=None, correct="w", incorrect="n", languages=("de",))
    story = replace(ITEM, languages=("en", "fr"))
    pairs = language_pairs(["de", "en", "fr"])
    asked = ask(held, [word, story], VOCABULARY, pairs=pairs, row_length=64).asked
    assert [(item.id, pair) for item, pair in asked] == [
        ("2", ("de", "de")),
        *(("1", pair) for pair in PAIRS),
    ]
    unknown = replace(word, languages=("de", "it"))
    message = r"^1 items are in languages that .*c does not have:\n  t 2: it"
    with pytest.raises(ValueError, match=message):
        ask(held, [unknown, story], VOCABULARY, pairs=pairs, row_length=64)


def test_a_subset_has_as_many_items_of_each_task_whole_and_always_the_same(tmp_path: Path):
    cloze, items = random_cloze(tmp_path)
    questions = ask(cloze, items, VOCABULARY, pairs=PAIRS, row_length=99)
    subset = questions.subset(3)
    for task in {item.task for item in items}:
        pairs_of = Counter(item.id for item, _ in questions.asked if item.task == task)
        found = Counter(item.id for item, _ in subset.asked if item.task == task)
        assert len(found) == 3
        assert all(pairs_of[name] == number for name, number in found.items())
    for number, asked in enumerate(subset.asked):
        position = 2 * questions.asked.index(asked)
        assert (
            subset.sequences[2 * number : 2 * number + 2]
            == (questions.sequences[position : position + 2])
        )
    assert questions.subset(3).digest() == subset.digest()
    assert questions.subset(1000).digest() == questions.digest()


def test_accuracy_counts_ties_half_and_has_the_error_of_the_mean():
    def item(task: str, correct: float, incorrect: float) -> Answer:
        ours, theirs = (dict.fromkeys(MEASURES, value) for value in (correct, incorrect))
        return Answer(task, "", "en", ours, theirs)

    wins = [(-1.0, -2.0), (-1.0, -1.0), (-2.0, -1.0), (-1.0, -3.0)]  # 1, 1/2, 0, 1
    first, second = accuracies([item("sSC", *win) for win in wins] + [item("sTC", -1.0, -2.0)])
    assert (first.task, first.pair, first.num_items) == ("sSC", "en", 4)
    assert first.accuracy == dict.fromkeys(MEASURES, 0.625)
    expected = math.sqrt((2 * 0.375**2 + 0.125**2 + 0.625**2) / 3 / 4)
    assert first.stderr == pytest.approx(dict.fromkeys(MEASURES, expected))
    assert second.accuracy == dict.fromkeys(MEASURES, 1.0)
    assert all(math.isnan(error) for error in second.stderr.values())


def test_missing_documents_are_listed(tmp_path: Path):
    held = corpus(tmp_path / "c", {**SMALL, "fr": {"p": [[11], [12]], "good": [[13]]}})
    with pytest.raises(ValueError, match=r"^1 documents that items name are missing:\n.*fr.*'bad'"):
        score(Sum(), held, [ITEM])
    many = [
        Item(task="t", id=str(i), prompt=None, correct=f"no/{i}", incorrect="p") for i in range(15)
    ]
    with pytest.raises(ValueError, match=r"(?s)^15 documents.*'no/9'\n  and 5 more$"):
        score(Sum(), held, many, pairs=[("en", "en")])


def test_sequences_that_are_too_long_or_have_nothing_to_score_are_listed(tmp_path: Path):
    held = corpus(tmp_path / "c", SMALL)
    message = r"sSC 1 en->fr, incorrect: 5 tokens, the model takes at most 4"
    with pytest.raises(ValueError, match=message):
        score(Sum(), held, [ITEM], row_length=4)
    with pytest.raises(ValueError, match=r"are too long: --truncate-prompt left cuts off"):
        score(Sum(), held, [ITEM], row_length=4)
    assert score(Sum(), held, [ITEM], row_length=5)
    single = Item(task="t", id="2", prompt=None, correct="good", incorrect="bad")
    with pytest.raises(ValueError, match=r"t 2 en, incorrect: one token and nothing before it"):
        score(Sum(), held, [single], pairs=[("en", "en")])
    assert score(Sum(), held, [single], pairs=[("en", "en")], prefix_token=BOS)


def test_a_prompt_that_is_too_long_loses_its_start_and_keeps_its_prefix(tmp_path: Path):
    held = corpus(tmp_path / "c", SMALL)
    ways = {"pairs": [("en", "en")], "prefix_token": BOS}
    whole = ask(held, [ITEM], VOCABULARY, row_length=100, **ways)
    short = ask(held, [ITEM], VOCABULARY, row_length=3, truncate_prompt="left", **ways)
    assert short.num_truncated == sum(len(sequence.tokens) > 4 for sequence in whole.sequences) > 0
    for before, after in zip(whole.sequences, short.sequences, strict=True):
        assert len(after.tokens) == min(len(before.tokens), 4)
        assert after.tokens[0] == BOS
        assert after.tokens[1:].tolist() == before.tokens[len(before.tokens) - 3 :].tolist()
        assert after.num_scored[1] == before.num_scored[1], "the ending is whole"


def test_written_scores_are_json_lines_with_all_measures(tmp_path: Path):
    scores = score(Sum(), corpus(tmp_path / "c", SMALL), [ITEM])
    lines = to_jsonl(scores).splitlines()
    assert [Answer(**json.loads(line)) for line in lines] == scores


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 900))
def test_batches_hold_every_sequence_once_within_the_budget(lengths: list[int], budget: int):
    batches = plan_batches(lengths, budget)
    held = sorted(index for _, indices in batches for index in indices)
    assert held == list(range(len(lengths)))
    for width, indices in batches:
        longest = max(lengths[index] for index in indices)
        assert longest <= width < longest * 1.125 + 1
        assert width * len(indices) <= budget or len(indices) == 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 11])
def test_ranks_share_all_batches_and_take_as_many_turns(world_size: int):
    sequences = [np.full(length, length) for length in range(1, 23)]
    whole = list(padded_batches(sequences, 30, ALONE, "test"))
    shares = [
        list(padded_batches(sequences, 30, Ranks(rank, world_size, torch.device("cpu")), "test"))
        for rank in range(world_size)
    ]
    assert {len(share) for share in shares} == {-(-len(whole) // world_size)}
    own = [batch for turn in zip(*shares, strict=True) for batch in turn if batch.is_own]
    for ours, expected in zip(own, whole, strict=True):
        assert ours.indices.tolist() == expected.indices.tolist()
        assert torch.equal(ours.tokens, expected.tokens)
        assert torch.equal(ours.tokens.sum(1), ours.lengths**2)
        assert torch.equal(ours.inside().sum(1), ours.lengths)


def test_similarity_is_the_cosine_of_pooled_states(tmp_path: Path):
    held, _ = random_cloze(tmp_path / "c")
    model = transformer()
    result = measure_similarity(
        model, held, VOCABULARY, ("en", "fr"), batch_tokens=BATCH_TOKENS, ranks=ALONE
    )

    def pooled(language: str, key: str) -> list[torch.Tensor]:
        sentences = held.document(language, held.find(language, key))
        tokens = [torch.from_numpy(sentence.astype(np.int64))[None] for sentence in sentences]
        return [torch.cat(model.hidden_states(each)).mean(1) for each in tokens]

    keys = [held.key("en", index) for index in range(held.num_documents("en"))]
    english, french = (
        torch.stack([state for key in keys for state in pooled(language, key)])
        for language in ("en", "fr")
    )
    similarity = nn.functional.cosine_similarity(english, french, dim=-1).mean(0)
    assert result.num_sentences == len(english) == 8 * 3 + 24
    torch.testing.assert_close(torch.tensor(result.aligned), similarity, rtol=1e-5, atol=1e-5)
    assert result.random != pytest.approx(result.aligned, abs=1e-3)
    assert not result.is_cross_modal


def test_similarity_of_a_corpus_with_itself_is_one_for_translations_alone(tmp_path: Path):
    rng = np.random.default_rng(1)
    documents = {str(i): [rng.integers(0, VOCAB, 6).tolist() for _ in range(5)] for i in range(9)}
    held = corpus(tmp_path / "c", {"en": documents, "fr": documents})
    options = {"batch_tokens": 64, "ranks": ALONE, "num_sentences": 30}
    result = measure_similarity(transformer(), held, VOCABULARY, ("en", "fr"), **options)
    assert result.num_sentences == 30
    assert result.aligned == pytest.approx([1.0] * 3, abs=1e-5)
    assert max(result.random) < 0.9
    assert result.retrieval == [1.0] * 3


def test_retrieval_counts_the_translations_that_are_nearest() -> None:
    first = torch.eye(6)
    second = torch.eye(6)
    second[4] = second[3]  # 3 and 4 are equally near to 3, and nothing is near to 4
    second[5], first[5] = -first[0], first[1]
    found = retrieval(first[:, None], second[:, None])
    similarity = first @ second.T
    expected = []
    for matrix in (similarity, similarity.T):
        nearest = [line == line.max() for line in matrix]
        expected.append(np.mean([float(line[i] / line.sum()) for i, line in enumerate(nearest)]))
    assert found == pytest.approx([np.mean(expected)])
    unrelated = torch.randn(400, 2, 16, generator=torch.Generator().manual_seed(0))
    assert max(retrieval(unrelated, unrelated.roll(1, 0))) < 0.02
    assert retrieval(unrelated, unrelated) == [1.0, 1.0]


def test_similarity_without_translations_is_an_error(tmp_path: Path):
    held = corpus(tmp_path / "c", {"en": {"a": [[1, 2]]}, "fr": {"a": [[3]]}})
    with pytest.raises(ValueError, match="1 translated sentences of en and fr; expected 2"):
        measure_similarity(
            transformer(), held, VOCABULARY, ("en", "fr"), batch_tokens=64, ranks=ALONE
        )


def _score_as_one_of_two(rank: int, folder: str, items: list[Item]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    ranks = Ranks(rank=rank, world_size=2, device=torch.device("cpu"))
    held = Corpus.open(f"{folder}/c")
    scores = to_jsonl(score(transformer(), held, items, ranks=ranks))
    Path(f"{folder}/{rank}.jsonl").write_text(scores)
    result = measure_similarity(
        transformer(), held, VOCABULARY, ("en", "fr"), batch_tokens=BATCH_TOKENS, ranks=ranks
    )
    Path(f"{folder}/{rank}.json").write_text(json.dumps(asdict(result)))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_get_the_numbers_of_one_bit_for_bit(tmp_path: Path):
    held, items = random_cloze(tmp_path / "c")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        (tmp_path / "alone.jsonl").write_text(to_jsonl(score(transformer(), held, items)))
        alone = measure_similarity(
            transformer(), held, VOCABULARY, ("en", "fr"), batch_tokens=BATCH_TOKENS, ranks=ALONE
        )
    finally:
        torch.set_num_threads(threads)
    spawn(_score_as_one_of_two, (str(tmp_path), items), nprocs=2)
    for rank in (0, 1):
        written = (tmp_path / f"{rank}.jsonl").read_text()
        assert written == (tmp_path / "alone.jsonl").read_text()
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == asdict(alone)
