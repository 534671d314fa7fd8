"""The queue of jobs: slots and serial queues (protocol 5.1, 5.5)."""

from itertools import count

import pytest
from hypothesis import strategies as st

from greenagent.jobs import job as job_module
from greenagent.jobs.job import Job, JobQueue
from greenagent.values.command import parse_command
from tests.support.properties import given

rows = count(1)


def make(queue: str = "") -> Job:
    row = next(rows)
    command = parse_command({"id": f"job{row}", "cmd": "execute", "args": {"name": "true", "queue": queue}})
    return Job(command, "main", "controller", row, 0.0)


def test_jobs_start_in_order_up_to_the_slots() -> None:
    jobs_queue = JobQueue(2)
    jobs = [make() for _ in range(3)]
    for job in jobs:
        jobs_queue.add(job)
    assert [jobs_queue.take(), jobs_queue.take(), jobs_queue.take()] == [jobs[0], jobs[1], None]
    assert (jobs_queue.running, jobs_queue.waiting, jobs_queue.free) == (2, 1, -1)
    jobs_queue.finish(jobs[1])
    assert jobs_queue.take() is jobs[2]


def test_a_queue_runs_one_at_a_time_and_others_pass_it() -> None:
    jobs_queue = JobQueue(10)
    first, second, other = make("q"), make("q"), make("r")
    for job in (first, second, other):
        jobs_queue.add(job)
    assert [jobs_queue.take(), jobs_queue.take(), jobs_queue.take()] == [first, other, None]
    jobs_queue.finish(first)
    assert jobs_queue.take() is second


def test_a_removed_head_frees_its_queue() -> None:
    jobs_queue = JobQueue(1)
    blocker, head, tail = make(), make("q"), make("q")
    for job in (blocker, head, tail):
        jobs_queue.add(job)
    assert jobs_queue.take() is blocker
    assert jobs_queue.remove(head)
    assert not jobs_queue.remove(head)
    jobs_queue.finish(blocker)
    assert jobs_queue.take() is tail


def test_a_removed_middle_does_not_start_its_successor_early() -> None:
    jobs_queue = JobQueue(5)
    head, middle, tail = make("q"), make("q"), make("q")
    for job in (head, middle, tail):
        jobs_queue.add(job)
    assert jobs_queue.take() is head
    assert jobs_queue.remove(middle)
    assert jobs_queue.take() is None
    jobs_queue.finish(head)
    assert jobs_queue.take() is tail


def test_the_line_is_full_by_number_or_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "MAX_WAITING", 2)
    jobs_queue = JobQueue(1)
    jobs = [make() for _ in range(3)]
    jobs_queue.add(jobs[0])
    assert jobs_queue.take() is jobs[0]
    jobs_queue.add(jobs[1])
    assert not jobs_queue.is_full
    jobs_queue.add(jobs[2])
    assert jobs_queue.is_full
    assert jobs_queue.remove(jobs[1])
    assert not jobs_queue.is_full
    monkeypatch.setattr(job_module, "MAX_WAITING_BYTES", 6000)
    jobs_queue.add(make())
    assert jobs_queue.is_full
    jobs_queue.finish(jobs[0])
    assert jobs_queue.take() is jobs[2]
    assert not jobs_queue.is_full


@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.booleans()), max_size=40), st.data())
def test_nothing_is_lost_and_limits_hold(slots: int, wishes: list[tuple[str, bool]], data: st.DataObject) -> None:
    """Whatever comes, leaves and ends: every job starts once or is removed, and no limit is passed."""
    jobs_queue = JobQueue(slots)
    running: list[Job] = []
    left: set[Job] = set()
    started: list[Job] = []

    def check() -> None:
        while (job := jobs_queue.take()) is not None:
            running.append(job)
            started.append(job)
        assert len(running) <= slots
        names = [job.command.arguments.queue for job in running if job.command.arguments.queue]
        assert len(names) == len(set(names))

    jobs = []
    for queue, remove in wishes:
        job = make(queue)
        jobs.append(job)
        jobs_queue.add(job)
        check()
        if remove and jobs_queue.remove(job):
            left.add(job)
        check()
        if running and data.draw(st.booleans()):
            jobs_queue.finish(running.pop(data.draw(st.integers(0, len(running) - 1))))
            check()
    while running:
        jobs_queue.finish(running.pop())
        check()
    assert set(started) | left == set(jobs)
    assert len(started) == len(set(started))
    assert not set(started) & left


def test_who_waits_is_told_by_controller() -> None:
    jobs_queue = JobQueue(1)
    first, second, third = make(), make(), make()
    third.controller = "other"
    before = jobs_queue.version
    for job in (first, second, third):
        jobs_queue.add(job)
    assert jobs_queue.take() is first
    assert jobs_queue.version > before
    assert (jobs_queue.waiting_of("main"), jobs_queue.waiting_of("other")) == ({second.id: True}, {third.id: True})
    assert jobs_queue.remove(second)
    assert jobs_queue.waiting_of("main") == {}
    jobs_queue.wait_for_change(before, 60)  # returns at once
