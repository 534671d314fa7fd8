"""Filters of the figures that are no plain text: a number is taken as its text, anything else refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from greenagent.builtins.processes import LiveJob, usage_of_matching, usage_of_one
from greenagent.builtins.registry import BuiltInError
from greenagent.values.command import parse_command

JOBS = [
    LiveJob(parse_command({"id": job_id, "cmd": "execute", "args": {"name": "n", "domain": domain}}), {"rss": 1})
    for job_id, domain in ((55, "5"), ("other", ""))
]


def test_a_number_is_taken_as_its_text() -> None:
    assert json.loads(usage_of_one(JOBS, {"id": 55}).data)["cmd"]["id"] == 55
    [entry] = json.loads(usage_of_matching(JOBS, {"domain": 5}).data)
    assert entry["cmd"]["id"] == 55


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_filter_means_all_jobs(nothing: str | None) -> None:
    data = {"domain": nothing, "name": nothing}
    assert len(json.loads(usage_of_matching(JOBS, data).data)) == 2


@pytest.mark.parametrize("value", [["x"], {}, [], False, True, 1.5])
@pytest.mark.parametrize("key", ["domain", "name", "id"])
def test_what_is_no_text_is_refused(key: str, value: Any) -> None:
    figures = usage_of_one if key == "id" else usage_of_matching
    with pytest.raises(BuiltInError, match=f"{key} must be text"):
        figures(JOBS, {key: value})


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"MYSQL_PWD": "hunter2"}, {"MYSQL_PWD": "***"}),
        (["MYSQL_PWD=hunter2", "A=b=hunter2", "hunter2"], ["MYSQL_PWD=***", "A=***", "hunter2=***"]),
    ],
)
def test_the_environment_that_a_caller_gives_is_not_shown_to_others(given: object, shown: object) -> None:
    args = {"name": "n", "env": given}
    job = LiveJob(parse_command({"id": "a", "cmd": "execute", "args": args}), {"rss": 1})
    [entry] = json.loads(usage_of_matching([job], {}).data)
    assert entry["cmd"]["args"] == {"name": "n", "env": shown}
    assert args["env"] == given, "the job has it"
