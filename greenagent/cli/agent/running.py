"""``greenagent --show-pid`` and ``--status``: which process has the files of a configuration, and how it does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from greenagent.agent.status_file import INTERVAL, LIMIT, status_file
from greenagent.cli.common import ago, one_line
from greenagent.cli.moments import duration
from greenagent.runtime.locks import lock_holder, lock_of
from greenagent.runtime.plain_files import open_plain, read_plain
from greenagent.settings.models import MainSettings

EXIT_NOBODY: Final = 3
"""No process has the files of this configuration: what ``status`` of an init script says."""


def show_pid(main: MainSettings) -> int:
    """Whose lock an agent with these files would meet. Raises OSError where that cannot be told."""
    holder = _holder(main)
    if holder:
        print(holder)
    return 0 if holder else EXIT_NOBODY


def show_status(main: MainSettings) -> int:
    """How the agent with these files does, some lines for people. Raises OSError where that cannot be told."""
    holder = _holder(main)
    if not holder:
        print("no agent has the files of this configuration")
        return EXIT_NOBODY
    try:
        file = status_file(main.ledger_file)
        told = json.loads(read_plain(file, LIMIT))
        lines = list(_lines(told, time.time() - file.stat().st_mtime)) if str(told["pid"]) == holder else []
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        lines = []
    for line in lines or [f"process {holder} has its files; it starts or ends, or tells nothing"]:
        print(one_line(line))
    return 0


def _holder(main: MainSettings) -> str:
    lock = lock_of(main.message_id_file)
    try:
        os.close(open_plain(lock))
    except FileNotFoundError:
        return ""
    return lock_holder(lock)


def _lines(told: Mapping[str, Any], age: float) -> Iterator[str]:
    """The lines of what ``AgentStatus.brief`` has told, ``age`` seconds ago: if that is long, nothing has changed."""
    read = f"{age:.0f} s ago" if 0 <= age < INTERVAL else f"{INTERVAL:.0f} s ago at most"
    up = duration(time.time() - told["began"])
    how = f"trouble: {told['problem']}" if told["problem"] else "healthy"
    who = f"greenagent {told['version']} {told['gid']}:{told['nid']}, process {told['pid']}"
    yield f"{who}, up {up}, {how} (as of {read})"
    jobs = told["jobs"]
    ended = ", ".join(f"{count} {state}" for state, count in sorted(jobs["done"].items()) if count) or "none"
    yield f"jobs: {jobs['running']} running, {jobs['waiting']} waiting, ended since its start: {ended}"
    for key, controller in told["controllers"].items():
        trouble = f", trouble: {controller['problem']}" if controller["problem"] else ""
        waiting = f"waiting for it: {controller['results']} results, {controller['lines']} lines"
        contact = ago(controller["last_contact"])
        if controller["polling"] == "polling" and controller["last_contact"] and not trouble:
            contact = f"a poll stands open, last answer {contact}"  # a minute ago where there is nothing to do
        else:
            contact = f"{controller['polling']}, last contact {contact}"
        yield f"controller {key}: {contact}, {waiting}{trouble}"
    for key, sink in told.get("sinks", {}).items():
        trouble = f", trouble: {sink['problem']}" if sink["problem"] else ""
        yield f"sink {key}: waiting for it: {sink['lines']} lines, {sink['statistics']} statistics{trouble}"
