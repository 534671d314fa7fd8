"""Answers of built-ins stay within 16 MiB, whatever the database and the live jobs hold.

See design, section 5 "Messages and logs".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent import monkey

from greenagent.builtins.processes import LiveJob, usage_of_matching, usage_of_one
from greenagent.builtins.registry import MAX_BYTES
from greenagent.jobs.commands import Answer
from greenagent.logs.read.query import LogQuery
from greenagent.logs.store import LogStore
from greenagent.values.command import parse_command
from greenagent.values.message import Message
from tests.support.builtins import ask_store
from tests.support.stores import Stores, job

MEBIBYTE = 1 << 20
thread = monkey.get_original("_thread", "get_ident")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LogStore]:
    stores = Stores(tmp_path)
    yield stores.open()
    stores.close()


def ask(store: LogStore, **filters: Any) -> Answer:
    return ask_store(store, "get_msgs", filters)


def log(store: LogStore, *texts: str) -> None:
    job(store).append([Message(1, text) for text in texts])
    store.flush()


def test_get_msgs_gives_the_newest_that_fit_and_says_that_there_are_more(store: LogStore) -> None:
    log(store, *(f"{number:02}" + "x" * MEBIBYTE for number in range(18)))
    answer = ask(store)
    assert len(answer.data.encode()) <= MAX_BYTES
    assert [record["data"][:2] for record in json.loads(answer.data)] == [f"{number:02}" for number in range(17, 2, -1)]
    assert answer.truncated
    assert not ask(store, limit=15).truncated


def test_what_counts_is_the_text_that_is_sent(store: LogStore) -> None:
    """A control character takes six bytes there."""
    log(store, *("\1" * MEBIBYTE for _ in range(4)))
    answer = ask(store)
    assert len(json.loads(answer.data)) == 2
    assert answer.truncated


def test_a_message_larger_than_all_of_that_can_still_be_had(store: LogStore) -> None:
    log(store, "older", '"' * (10 * MEBIBYTE))
    answer = ask(store)
    assert [len(record["data"]) for record in json.loads(answer.data)] == [10 * MEBIBYTE]
    assert answer.truncated


def test_the_text_of_an_answer_is_made_beside_the_hub(store: LogStore) -> None:
    """A thousand long lines would make the agent deaf for seconds."""
    log(store, "text")
    found = store.query(LogQuery(), lambda records: ([record.data for record in records], thread()))
    assert found[0] == ["text"]
    assert found[1] != thread()


def live(number: int, **more: Any) -> LiveJob:
    received = {"id": f"job {number}", "cmd": "execute", "args": {"name": "cat", "domain": "d"}, **more}
    return LiveJob(parse_command(received), {"cpu": 0.0, "rss": 1})


def stats(*jobs: LiveJob, job_id: str = "") -> Answer:
    return usage_of_one(jobs, {"id": job_id}) if job_id else usage_of_matching(jobs, {})


def test_figures_of_jobs_leave_out_what_is_long() -> None:
    """Twelve waiting jobs of 30 MB each made an answer of 343 MiB."""
    long_args = {"name": "cat", "domain": "d", "args": ["x" * 20] * 1000, "env": {"A": "b"}}
    jobs = [
        live(0, data="short", tags="t"),
        live(1, data="x" * MEBIBYTE, tags="t"),
        live(2, args=long_args),
        live(3, roles=["r" * 100] * 200),
    ]
    first, *others = [entry["cmd"] for entry in json.loads(stats(*jobs).data)]
    brief = {"cmd": "execute", "args": {"name": "cat", "domain": "d"}}
    assert first == {"id": "job 0", **brief, "data": "short", "tags": "t"}
    assert others == [
        {"id": "job 1", **brief, "tags": "t"},
        {"id": "job 2", "cmd": "execute", "args": {"name": "cat", "domain": "d", "env": {"A": "***"}}},
        {"id": "job 3", **brief},
    ]
    assert json.loads(stats(*jobs, job_id="job 1").data)["cmd"] == others[0]


def test_figures_of_very_many_jobs_are_cut() -> None:
    jobs = [live(number, data="x" * 4000) for number in range(4500)]
    answer = stats(*jobs)
    assert answer.truncated
    assert MAX_BYTES * 0.99 < len(answer.data.encode()) <= MAX_BYTES
    assert json.loads(answer.data)[0]["cmd"]["id"] == "job 0"
