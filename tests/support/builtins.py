"""Built-ins that act on a part of the agent alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from greenagent.builtins import Context, bind
from greenagent.jobs.commands import Answer
from greenagent.logs.store import LogStore
from greenagent.values.command import parse_command


def ask_store(store: LogStore, name: str, data: Mapping[str, Any]) -> Answer:
    """The answer of a built-in that asks the log store and no other part: there is none."""
    nobody = cast(Any, None)
    context = Context(nobody, nobody, nobody, store, nobody, nobody)
    return bind(context)[name](parse_command({"id": "q", "cmd": name, "data": json.dumps(data)}))
