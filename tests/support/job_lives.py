"""What end-to-end tests of jobs ask again and again."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

from tests.support.processes import is_running
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

_numbers = itertools.count(1)


def ask(controller: RecordingController, cmd: str, data: Any = None, timeout: float = 20) -> dict[str, Any]:
    """Sends a built-in command under an id of its own and returns its result."""
    command_id = f"{cmd}-{next(_numbers)}"
    text = data if isinstance(data, str) else "" if data is None else json.dumps(data)
    controller.push({"id": command_id, "gid": 1, "nid": 10, "cmd": cmd, "args": {}, "data": text})
    return controller.wait_for_result(command_id, timeout)


def answer_of(controller: RecordingController, cmd: str, data: Any = None) -> Any:
    """The JSON value a built-in command answers; it must have succeeded with level 20."""
    result = ask(controller, cmd, data)
    assert (result["state"], result["level"]) == ("SUCCESS", 20), result
    return json.loads(result["data"])


def kill(controller: RecordingController, job_id: str, signal: str | int | None = None) -> None:
    """Kills a job, or signals it, and asserts that the agent says so."""
    wanted: dict[str, Any] = {"id": job_id}
    if signal is not None:
        wanted["signal"] = signal
    assert answer_of(controller, "kill", wanted) is True


def words(path: Path) -> list[str]:
    """The words of a file that jobs write into; none while it is not there."""
    return path.read_text().split() if path.exists() else []


def wait_for_words(path: Path, count: int, timeout: float = 15) -> list[str]:
    """Waits until a file has at least so many words."""
    wait_until(lambda: len(words(path)) >= count, timeout, f"{count} words in {path.name}")
    return words(path)


def running_pids(path: Path) -> list[int]:
    """Those of the pids in a file whose process runs."""
    return [int(pid) for pid in words(path) if is_running(int(pid))]


def tagged_processes(folder: Path) -> list[int]:
    """Every running process that an agent with its files in ``folder`` started: by AGENT_HOME and its tag."""
    found = []
    home = b"AGENT_HOME=" + os.fsencode(folder)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_running(int(entry.name)):
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if home in variables and any(variable.startswith(b"GREENAGENT_JOB=") for variable in variables):
                found.append(int(entry.name))
    return found


def states_of(controller: RecordingController, job_id: str) -> list[str]:
    """The states of all results of a job, in order of arrival."""
    return [result["state"] for result in controller.results_of(job_id)]
