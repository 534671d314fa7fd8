"""The waiting line: slots and serial queues (protocol 5.1, 5.5)."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenagent.jobs import queues
from greenagent.jobs.job import Job
from greenagent.jobs.queues import WaitingLine
from greenagent.values.command import parse_command

rows = count(1)


def make(queue: str = "") -> Job:
    row = next(rows)
    command = parse_command({"id": f"job{row}", "cmd": "execute", "args": {"name": "true", "queue": queue}})
    return Job(command, "main", "controller", row, 0.0)


def test_jobs_start_in_order_up_to_the_slots() -> None:
    line = WaitingLine(2)
    jobs = [make() for _ in range(3)]
    for job in jobs:
        line.add(job)
    assert [line.take(), line.take(), line.take()] == [jobs[0], jobs[1], None]
    assert (line.running, line.waiting, line.free) == (2, 1, -1)
    line.finish(jobs[1])
    assert line.take() is jobs[2]


def test_a_queue_runs_one_at_a_time_and_others_pass_it() -> None:
    line = WaitingLine(10)
    first, second, other = make("q"), make("q"), make("r")
    for job in (first, second, other):
        line.add(job)
    assert [line.take(), line.take(), line.take()] == [first, other, None]
    line.finish(first)
    assert line.take() is second


def test_a_removed_head_frees_its_queue() -> None:
    line = WaitingLine(1)
    blocker, head, tail = make(), make("q"), make("q")
    for job in (blocker, head, tail):
        line.add(job)
    assert line.take() is blocker
    assert line.remove(head)
    assert not line.remove(head)
    line.finish(blocker)
    assert line.take() is tail


def test_a_removed_middle_does_not_start_its_successor_early() -> None:
    line = WaitingLine(5)
    head, middle, tail = make("q"), make("q"), make("q")
    for job in (head, middle, tail):
        line.add(job)
    assert line.take() is head
    assert line.remove(middle)
    assert line.take() is None
    line.finish(head)
    assert line.take() is tail


def test_the_line_is_full_by_number_or_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MAX_WAITING", 2)
    line = WaitingLine(1)
    jobs = [make() for _ in range(3)]
    line.add(jobs[0])
    assert line.take() is jobs[0]
    line.add(jobs[1])
    assert not line.is_full
    line.add(jobs[2])
    assert line.is_full
    assert line.remove(jobs[1])
    assert not line.is_full
    monkeypatch.setattr(queues, "MAX_WAITING_BYTES", 6000)
    line.add(make())
    assert line.is_full
    line.finish(jobs[0])
    assert line.take() is jobs[2]
    assert not line.is_full


@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.booleans()), max_size=40), st.data())
def test_nothing_is_lost_and_limits_hold(slots: int, wishes: list[tuple[str, bool]], data: st.DataObject) -> None:
    """Whatever comes, leaves and ends: every job starts once or is removed, and no limit is passed."""
    line = WaitingLine(slots)
    running: list[Job] = []
    left: set[Job] = set()
    started: list[Job] = []

    def check() -> None:
        while (job := line.take()) is not None:
            running.append(job)
            started.append(job)
        assert len(running) <= slots
        names = [job.command.arguments.queue for job in running if job.command.arguments.queue]
        assert len(names) == len(set(names))

    jobs = []
    for queue, remove in wishes:
        job = make(queue)
        jobs.append(job)
        line.add(job)
        check()
        if remove and line.remove(job):
            left.add(job)
        check()
        if running and data.draw(st.booleans()):
            line.finish(running.pop(data.draw(st.integers(0, len(running) - 1))))
            check()
    while running:
        line.finish(running.pop())
        check()
    assert set(started) | left == set(jobs)
    assert len(started) == len(set(started))
    assert not set(started) & left
