"""Filters of the figures that are no plain text: a number is taken as its text, anything else refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from greenagent.builtins.call import Answer, BuiltIn, BuiltInError, Call
from greenagent.builtins.processes import LiveJob, get_process_stats, get_processes_stats
from greenagent.values.command import parse_command

JOBS = [
    LiveJob(parse_command({"id": job_id, "cmd": "execute", "args": {"name": "n", "domain": domain}}), {"rss": 1})
    for job_id, domain in ((55, "5"), ("other", ""))
]


def ask(built_in: BuiltIn, data: Any) -> Answer:
    return built_in(Call(parse_command({"id": "q", "cmd": "q", "data": json.dumps(data)}), None))


def test_a_number_is_taken_as_its_text() -> None:
    assert json.loads(ask(get_process_stats(lambda: JOBS), {"id": 55}).data)["cmd"]["id"] == 55
    [entry] = json.loads(ask(get_processes_stats(lambda: JOBS), {"domain": 5}).data)
    assert entry["cmd"]["id"] == 55


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_filter_means_all_jobs(nothing: str | None) -> None:
    data = {"domain": nothing, "name": nothing}
    assert len(json.loads(ask(get_processes_stats(lambda: JOBS), data).data)) == 2


@pytest.mark.parametrize("value", [["x"], {}, [], False, True, 1.5])
@pytest.mark.parametrize("key", ["domain", "name", "id"])
def test_what_is_no_text_is_refused(key: str, value: Any) -> None:
    built_in = get_process_stats(lambda: JOBS) if key == "id" else get_processes_stats(lambda: JOBS)
    with pytest.raises(BuiltInError, match=f"{key} must be text"):
        ask(built_in, {key: value})
