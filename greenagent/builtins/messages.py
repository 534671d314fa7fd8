"""``get_msgs`` and ``del_msgs``: the log database from afar.

See protocol 6.2, 6.3 and design, section 5 "Messages and logs".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from greenagent.builtins.registry import BuiltInError, Call, answer, command, list_answer, text_of
from greenagent.jobs.commands import Answer
from greenagent.logs.read.query import LogQuery
from greenagent.values.errors import LevelError
from greenagent.values.levels import parse_levels
from greenagent.values.message import Record

MAX_RECORDS: Final = 1000
"""The hard limit of one query (protocol 6.2)."""
_LATEST: Final = 2**53
"""Seconds; what is beyond all time means the same and would not fit sqlite's integers with a second more."""


@command("get_msgs", needs_store=True)
def get_msgs(call: Call) -> Answer:
    """Answers the matching records, newest first, at most 1000, and no more than fit into 16 MiB."""
    assert call.agent.store is not None
    # All of it in the store's thread: to make the text of a thousand long lines on the hub takes seconds.
    return call.agent.store.query(_read(call, limited=True), _as_list)


def _as_list(records: Iterable[Record]) -> Answer:
    return list_answer(record.to_wire() for record in records)


@command("del_msgs", needs_store=True)
def del_msgs(call: Call) -> Answer:
    """Deletes the matching records but those a controller still waits for; answers how many of each.

    All that match: a ``limit`` is refused, since ignoring it would delete more than was asked for.
    """
    assert call.agent.store is not None
    if call.data().get("limit"):
        raise BuiltInError("del_msgs deletes all that matches and takes no limit; narrow it with the other filters")
    deleted, kept = call.agent.store.delete(_read(call, limited=False))
    return answer({"deleted": deleted, "kept": kept})


def _read(call: Call, limited: bool) -> LogQuery:
    data = call.data()
    try:
        levels = parse_levels(data.get("levels"))
    except LevelError as error:
        raise BuiltInError(f"levels: {error}") from error
    limit = _number(data, "limit")
    if limited:
        limit = limit if limit is not None and 0 < limit < MAX_RECORDS else MAX_RECORDS
    return LogQuery(
        jobid=text_of(data, "jobid"),
        domain=text_of(data, "domain"),
        name=text_of(data, "name"),
        levels=levels,
        time_from=_time(data, "timefrom"),
        time_to=_time(data, "timeto"),
        limit=max(0, limit or 0),
    )


def _number(data: Any, key: str) -> int | None:
    value = data.get(key)
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,15}\s*", value):
        value = int(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -(2**63) < value < 2**63:
        raise BuiltInError(f"{key} must be a number")
    return int(value)


def _time(data: Any, key: str) -> float | None:
    """Seconds since 1970; 0 and null leave the bound open (protocol 6.2)."""
    number = _number(data, key)
    return float(max(-_LATEST, min(number, _LATEST))) if number else None
