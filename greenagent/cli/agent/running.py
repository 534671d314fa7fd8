"""``greenagent --show-pid`` and ``--status``: which process has the files of a configuration, and how it does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from greenagent.agent.status_file import LIMIT, status_file
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
        told = json.loads(read_plain(status_file(main.ledger_file), LIMIT))
        lines = list(_lines(told)) if str(told["pid"]) == holder else []
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


def _lines(told: Mapping[str, Any]) -> Iterator[str]:
    """The lines of what ``AgentStatus.brief`` has told."""
    up = duration(time.time() - told["began"])
    how = f"trouble: {told['problem']}" if told["problem"] else "healthy"
    yield f"greenagent {told['version']} {told['gid']}:{told['nid']}, process {told['pid']}, up {up}, {how}"
    jobs = told["jobs"]
    ended = ", ".join(f"{count} {state}" for state, count in sorted(jobs["done"].items()) if count) or "none"
    yield f"jobs: {jobs['running']} running, {jobs['waiting']} waiting, ended since its start: {ended}"
    for key, controller in told["controllers"].items():
        trouble = f", trouble: {controller['problem']}" if controller["problem"] else ""
        waiting = f"waiting for it: {controller['results']} results, {controller['lines']} lines"
        contact = f"last contact {ago(controller['last_contact'])}"
        yield f"controller {key}: {controller['polling']}, {contact}, {waiting}{trouble}"
