"""Finished work survives a crash; a line that a crash cut does not count."""

import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tresse.data.interrupt import Interrupt
from tresse.data.jobs import Journal, Results, run_job

JOB = {"recordings": "00ff", "settings": {"joint": False}}


def fill(folder: Path, rank: int, numbers: range) -> None:
    """Append results as a rank of a job would."""
    with Journal.open(folder, JOB, rank) as journal:
        for number in numbers:
            journal.append(number, {"rank": rank, "square": number**2})


def test_results_of_all_ranks_come_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    fill(tmp_path, 0, range(0, 10, 2))
    fill(tmp_path, 1, range(1, 10, 2))
    fill(tmp_path, 0, range(10, 12))
    journal = Journal.open(tmp_path, JOB, 5)
    assert journal.finished == set(range(12))
    assert [result["square"] for result in journal.results(range(12))] == [i**2 for i in range(12)]
    assert [result["rank"] for result in journal.results((3, 2))] == [1, 0]


def test_new_results_of_others_are_seen_when_looked_for(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, JOB, 0)
    fill(tmp_path, 1, range(3))
    assert journal.finished == set()
    journal.refresh()
    assert journal.finished == {0, 1, 2}


def test_a_line_that_was_cut_anywhere_is_not_counted(tmp_path: Path) -> None:
    fill(tmp_path, 0, range(3))
    (path,) = tmp_path.glob("*.jsonl")
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        assert Journal.open(tmp_path, JOB, 0).finished == {0, 1}, end


def test_a_writer_that_had_not_ended_its_line_is_read_on_from_there(tmp_path: Path) -> None:
    fill(tmp_path, 0, range(3))
    (path,) = tmp_path.glob("*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    journal = Journal.open(tmp_path, JOB, 0)
    path.write_bytes(whole)
    journal.refresh()
    assert list(journal.results(range(3)))[2] == {"rank": 0, "square": 4}


def test_a_damaged_line_is_done_again_and_the_others_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 0, range(5))
    (path,) = tmp_path.glob("*.jsonl")
    content = bytearray(path.read_bytes())
    place = content.index(b'"square":4')
    content[place + 9] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        journal = Journal.open(tmp_path, JOB, 0)
    assert journal.finished == {0, 1, 3, 4}
    assert "damaged" in caplog.text
    fill(tmp_path, 0, range(2, 3))
    journal.refresh()
    assert [result["square"] for result in journal.results(range(5))] == [0, 1, 4, 9, 16]


def test_another_job_in_the_folder_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "p", 0, range(1))
    with pytest.raises(ValueError, match=r"p holds .* was 00ff, is now 11; resume that run"):
        Journal.open(tmp_path / "p", JOB | {"recordings": "11"}, 0)
    with pytest.raises(
        ValueError, match=r"settings was \{'joint': False\}, is now \{'joint': True\}"
    ):
        Journal.open(tmp_path / "p", JOB | {"settings": {"joint": True}}, 0)


@pytest.mark.parametrize(
    ("content", "fault"),
    [("{", "Expecting"), ("[]", "not a JSON object"), ("\0", "Expecting"), ("", "Expecting")],
)
def test_a_damaged_job_is_named_and_what_to_do(content: str, fault: str, tmp_path: Path) -> None:
    fill(tmp_path / "p", 0, range(1))
    (tmp_path / "p" / "job.json").write_text(content)
    with pytest.raises(ValueError, match=rf"job\.json: damaged \({fault}.*remove .*p to begin"):
        Journal.open(tmp_path / "p", JOB, 0)


def hold(folder: Path, ready, leave) -> None:
    """Be alone until told otherwise."""
    with Journal.open(folder, JOB, 1).alone() as mine:
        assert mine
        ready.set()
        leave.wait()


def test_one_process_is_alone_and_its_death_lets_the_next_in(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, leave))
    process.start()
    assert ready.wait(60)
    journal = Journal.open(tmp_path, JOB, 0)
    with journal.alone() as mine:
        assert not mine
    process.kill()
    process.join()
    with journal.alone() as mine:
        assert mine
    journal.remove()
    with journal.alone() as mine:
        assert not mine, "another has completed the job"


def run_squares(out: Path, own: Sequence[int], done: list[int], stop_at: int = -1) -> str:
    """Square the numbers of six groups in `own`; a signal comes during the group `stop_at`."""

    def work(todo: Sequence[int], _: Interrupt) -> Results:
        for number in todo:
            if number == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            done.append(number)
            yield {"square": number**2}

    def write(folder: Path, results: Iterator[dict]) -> None:
        folder.mkdir()
        (folder / "squares").write_text(json.dumps([result["square"] for result in results]))

    return run_job(out, JOB, 6, own, work, write)


def test_the_rank_that_finds_all_groups_writes_their_results_in_order(tmp_path: Path) -> None:
    done: list[int] = []
    reason = "done; other ranks have not finished 3 of 6 groups"
    assert run_squares(tmp_path / "out", (4, 0, 2), done) == reason
    assert run_squares(tmp_path / "out", (), done) == "done; there are more ranks than groups"
    assert [path.name for path in tmp_path.iterdir()] == ["out.parts"]
    assert run_squares(tmp_path / "out", (2, 5, 3, 1), done) == ""
    assert done == [4, 0, 2, 5, 3, 1], "nothing is done twice"
    assert json.loads((tmp_path / "out" / "squares").read_text()) == [0, 1, 4, 9, 16, 25]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("stop_at", [0, 3, 5])
def test_a_signal_keeps_the_current_group_and_leaves_the_rest_to_the_next_run(
    stop_at: int, tmp_path: Path
) -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt, match="the same command resumes from there"):
        run_squares(tmp_path / "out", range(6), done, stop_at)
    assert done == list(range(stop_at + 1))
    assert not (tmp_path / "out").exists()
    assert run_squares(tmp_path / "out", range(6), done) == ""
    assert done == list(range(6))
    assert json.loads((tmp_path / "out" / "squares").read_text()) == [0, 1, 4, 9, 16, 25]
