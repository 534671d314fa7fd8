"""Following a job at the controller: its lines while they come, to the last one after its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from greenagent.cli.ctl.client import Client, ControllerError, job_path
from greenagent.cli.ctl.output import LiveOutput

POLL_WAIT: Final = 20.0
"""Seconds the controller holds a request for lines while there are none."""
LINES_WAIT: Final = 3.0
"""Seconds to wait, after the last new line of a job that has ended, for lines that its result tells of."""
SETTLE_TIME: Final = 1.3
"""Seconds after a job's end in which lines may come that its result does not tell of: a flush and the way."""
FIRST_LINE_WAIT: Final = 2.5
"""The same where no line has come at all: the agent may not upload any."""
MAX_IDS: Final = 50_000
"""Lines whose repeats are known, should the controller be started again."""
CONTROLLER_WAIT: Final = 60.0
"""Seconds the controller may be away while a job runs."""


class Follower:
    """Fetches lines while a job runs and its results when it ends."""

    def __init__(self, client: Client, job_id: str, output: LiveOutput, patient: bool = True) -> None:
        """``patient``: waits for a controller that is away, also before its first answer."""
        self._client = client
        self._path = job_path(job_id)
        self._output = output
        self._patient = patient
        self._run = ""
        """Names the run of the controller that numbers the lines."""
        self._after = 0
        self._seen = 0
        self._ids: dict[tuple[int, int, int], None] = {}
        self._finished = False
        self.lost = 0
        """Lines the controller no longer had when they were asked for."""

    @property
    def was_answered(self) -> bool:
        """True once the controller has shown that it knows the job, or lines of it."""
        return bool(self._run)

    def read(self) -> None:
        """Shows the lines that are there. Raises ControllerError."""
        while self._fetch():
            pass

    def follow(self) -> dict[str, Any]:
        """Returns the finished job, its lines shown as far as they came. Raises ControllerError."""
        self._finished = False
        while not self._finished:
            self._fetch(POLL_WAIT)
        job = self._patiently(lambda: self._client.get(self._path))
        ended = quiet_since = time.monotonic()
        while True:
            if self._fetch():
                quiet_since = time.monotonic()
                continue
            if all(self._output.is_complete(result) for result in job["results"]):
                # A result tells of levels 1, 2 and 9 alone: others may have been printed just before the end.
                until = ended + SETTLE_TIME
            else:
                until = quiet_since + (LINES_WAIT if self._after else FIRST_LINE_WAIT)
            left = until - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, 0.1))
        self.read()
        return job

    def _fetch(self, wait: float = 0.0) -> bool:
        """Shows the lines that are there, or come within ``wait`` seconds; True when the place has moved."""
        asked: dict[str, Any] = {"after": self._after, "limit": 2000}
        if self._run:
            asked["run"] = self._run
        if wait:
            asked["follow"] = 1
        answer = self._patiently(lambda: self._client.get(f"{self._path}/logs", wait, **asked))
        before = (self._run, self._after)
        run = answer.get("run", "")
        if run != self._run:
            self._output.restarted = bool(self._run)
            self._run = run
            self._seen = 0
        lost = max(0, answer["dropped"] - self._seen)  # what was dropped after it was seen is not lost
        self.lost += lost
        self._seen += lost + len(answer["lines"])
        for line in answer["lines"]:
            self._show(line)
        self._after = answer["next"]
        self._finished = bool(answer["finished"])
        return (self._run, self._after) != before

    def _show(self, line: dict[str, Any]) -> None:
        """Shows a line once: an agent sends a batch again that the controller did not acknowledge."""
        key = (line["gid"], line["nid"], line["id"])
        if key in self._ids:
            return
        if line["id"]:
            self._ids[key] = None
        if len(self._ids) > MAX_IDS:
            del self._ids[next(iter(self._ids))]
        self._output.line(line)

    def _patiently(self, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A controller that restarts is waited for: the job goes on without it."""
        deadline = time.monotonic() + (CONTROLLER_WAIT if self._patient else 0.0)
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
