"""Following a job at the controller: its lines while they come, to the last one after its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from greenagent.cli.ctl_client import Client, ControllerError, job_path
from greenagent.cli.ctl_output import LiveOutput

LINES_WAIT: Final = 3.0
"""Seconds to wait, after the last new line of a job that has ended, for lines that its result tells of."""
SETTLE: Final = 1.3
"""Seconds after a job's end in which lines may come that its result does not tell of: a flush and the way."""
FIRST_LINE_WAIT: Final = 2.5
"""The same where no line has come at all: the agent may not upload any."""
REMEMBERED_IDS: Final = 50_000
"""Lines whose repeats are known, should the controller be started again."""
PATIENCE: Final = 60.0
"""Seconds the controller may be away while a job runs."""


class Follower:
    """Fetches lines while a job runs and its results when it ends."""

    def __init__(self, client: Client, job_id: str, output: LiveOutput, patient: bool = True) -> None:
        """``patient``: waits for a controller that is away, also before its first answer."""
        self._client = client
        self._path = job_path(job_id)
        self._output = output
        self._after = 0
        self._run = ""
        self._seen = 0
        self._ids: dict[tuple[int, int, int], None] = {}
        self._patient = patient
        self.lost = 0
        """Lines the controller no longer had when they were asked for."""

    @property
    def was_answered(self) -> bool:
        """True once the controller has shown that it knows the job, or lines of it."""
        return bool(self._run)

    def read(self) -> None:
        """Shows the lines that are there. Raises ControllerError."""
        while self._fetch_once():
            pass

    def follow(self) -> dict[str, Any]:
        """Returns the finished job, its lines shown as far as they came. Raises ControllerError."""
        while not self._fetch(wait=20.0):
            pass
        job = self._patiently(lambda: self._client.get(self._path))
        ended = quiet_since = time.monotonic()
        while True:
            if self._fetch_once():
                quiet_since = time.monotonic()
                continue
            if all(self._output.is_complete(result) for result in job["results"]):
                # A result tells of levels 1, 2 and 9 alone: others may have been printed just before the end.
                until = ended + SETTLE
            else:
                until = quiet_since + (LINES_WAIT if self._after else FIRST_LINE_WAIT)
            left = until - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, 0.1))
        self.read()
        return job

    def _fetch(self, wait: float) -> bool:
        """Shows the lines that are there; True when the job is finished."""
        asked: dict[str, Any] = {"after": self._after, "limit": 2000}
        if self._run:
            asked["run"] = self._run
        if wait:
            asked["follow"] = 1
        answer = self._patiently(lambda: self._client.get(f"{self._path}/logs", wait, **asked))
        return self._show(answer)

    def _fetch_once(self) -> bool:
        """True when lines came."""
        before = (self._run, self._after)
        self._fetch(0.0)
        return (self._run, self._after) != before

    def _show(self, answer: dict[str, Any]) -> bool:
        run = answer.get("run", "")
        if run != self._run:
            self._output.restarted = bool(self._run)
            self._run = run
            self._seen = 0
        lost = max(0, answer["dropped"] - self._seen)  # what was dropped after it was seen is not lost
        self.lost += lost
        self._seen += lost + len(answer["lines"])
        for line in answer["lines"]:
            key = (line["gid"], line["nid"], line["id"])
            if key in self._ids:
                continue  # an agent sends a batch again that the controller did not acknowledge
            if line["id"]:
                self._ids[key] = None
            if len(self._ids) > REMEMBERED_IDS:
                del self._ids[next(iter(self._ids))]
            self._output.line(line)
        self._after = answer["next"]
        return bool(answer["finished"])

    def _patiently(self, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A controller that restarts is waited for: the job goes on without it."""
        deadline = time.monotonic() + (PATIENCE if self._patient else 0.0)
        while True:
            try:
                answer = ask()
                self._patient = True
                return answer
            except ControllerError as error:
                if error.status not in (0, 503) or time.monotonic() >= deadline:
                    raise
                self._output.was_away = True
                time.sleep(1)
