"""Following a job at the controller: its lines while they come, to the last one after its end."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, TypeVar

from greenagent.cli.ctl.client import UNKNOWN, Client, ControllerError, job_path
from greenagent.cli.ctl.originals import (
    MAX_LINES,
    UnreadableLogError,
    is_first,
    lines_of,
    may_have_lines,
    originals_among,
)
from greenagent.cli.ctl.output import LiveOutput, agent_name
from greenagent.values import states

POLL_WAIT: Final = 20.0
"""Seconds the controller holds a request for lines while there are none."""
LINES_WAIT: Final = 3.0
"""Seconds to wait, after the last new line of a job that has ended, for lines that its result tells of."""
SETTLE_TIME: Final = 1.3
"""Seconds after a job's end in which lines may come that its result does not tell of: a flush and the way."""
LAG_WAIT: Final = 10.0
"""The same where the result tells how many lines there are: lines of other jobs may go before them."""
UNDER_WAY: Final = 3.0
"""Seconds after a job's end in which such lines are awaited by who only looks: an agent sends those of a detached job
within one."""
LOOK_PAUSE: Final = 0.05
"""Seconds between two looks for lines of a job that has ended: the controller holds no request for them any more."""
FIRST_LINE_WAIT: Final = 2.5
"""The same where no line has come at all: the agent may not upload any."""
ORIGINAL_DELAY: Final = 0.3
"""Seconds after a job's end until its lines are in the log of a later original, which writes it in the background."""
ORIGINAL_TRIES: Final = 3
"""How often such a log is looked into while lines are missing that the result tells of."""
MAX_IDS: Final = 50_000
"""Lines whose repeats are known, should the controller be started again."""
EXPLAIN_AFTER: Final = (1.5, 4.0)
"""Seconds after which it is said what a job waits for that has not ended; again where there was nothing to say, since
an agent tells within two seconds that it waits there."""
STILL_WAIT: Final = 2.5
"""Seconds after which open text that has changed is looked at again: an agent tells of a change within two."""
CONTROLLER_WAIT: Final = 60.0
"""Seconds the controller may be away while a job runs."""

Answer = TypeVar("Answer")


class Follower:
    """Fetches lines while a job runs and its results when it ends."""

    def __init__(
        self,
        client: Client,
        job_id: str,
        output: LiveOutput,
        patient: bool = True,
        explain: Callable[[], bool] = lambda: False,
    ) -> None:
        """``patient``: waits for a controller that is away, also before its first answer.

        ``explain``: says what the job waits for and returns whether it does; called where one that is followed goes on.
        """
        self._client = client
        self._path = job_path(job_id)
        self._output = output
        self._patient = patient
        self._explain = explain
        self._is_explained = False
        self._run = ""
        """Names the run of the controller that numbers the lines."""
        self._after = 0
        self._open = "0"
        """The mark of what was open when it was looked at last."""
        self._seen = 0
        self._ids: OrderedDict[tuple[int, int, int], None] = OrderedDict()
        self._finished = False
        self._said: set[str] = set()

    @property
    def lost(self) -> int:
        """Lines the controller no longer had when they were asked for."""
        return self._output.lost

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
        began = time.monotonic()
        for after in EXPLAIN_AFTER:
            while not self._finished and not self._is_explained and (left := began + after - time.monotonic()) > 0:
                self._fetch(left)
            if not self._finished and not self._is_explained:
                self._is_explained = self._explain() or after == EXPLAIN_AFTER[-1]
        while not self._finished:
            self._fetch(STILL_WAIT if self._output.awaits_open else POLL_WAIT)
        job = self._patiently(lambda: self._client.get(self._path))
        ended = quiet_since = time.monotonic()
        uploading = [result for result in job["results"] if agent_name(result) not in self._originals_of(job)]
        while uploading:
            if self._fetch():
                quiet_since = time.monotonic()
                continue
            awaited = self._output.awaited(uploading)
            if all(map(self._output.is_complete, uploading)):
                if awaited is not None:
                    break
                # A result without a count tells of levels 1, 2 and 9 alone: others may have been printed before.
                until = ended + SETTLE_TIME
            elif awaited is not None:
                # What is lost for certain is waited for no longer than what may just be on its way.
                until = quiet_since + LAG_WAIT if awaited else ended + SETTLE_TIME
            else:
                until = quiet_since + (LINES_WAIT if self._after else FIRST_LINE_WAIT)
            left = until - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, LOOK_PAUSE))
        self.read()
        return job

    def await_rest(self, job: dict[str, Any]) -> None:
        """Shows, as they come, the lines that the results of a job tell of, which has only just ended.

        Raises ControllerError.
        """
        under_way = min(UNDER_WAY, (job.get("finished") or 0.0) + UNDER_WAY - time.time())
        until = time.monotonic() + under_way
        while self._output.awaited(job["results"]) and time.monotonic() < until:
            if not self._fetch():
                time.sleep(LOOK_PAUSE)

    def known_job(self) -> dict[str, Any] | None:
        """The job as it is now; None where the controller knows but lines of it. Raises ControllerError."""
        try:
            return self._patiently(lambda: self._client.get(self._path))
        except ControllerError as error:
            if error.status != UNKNOWN:
                raise
            return None

    def read_originals(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        """Shows the lines in the logs of original agents that have or had the job, or says why that cannot be.

        Returns the results, or placeholders, of those agents whose logs were read. Raises ControllerError.
        """
        originals = self._originals_of(job)
        return [
            result
            for result in job["results"]
            if agent_name(result) in originals and may_have_lines(result, job["cmd"]) and self._read_original(result)
        ]

    def _read_original(self, result: dict[str, Any]) -> bool:
        """False where its log could not be read, which was said."""
        is_over = states.is_terminal(result["state"])
        for _ in range(ORIGINAL_TRIES if is_over else 1):
            if is_over and not is_first(result):
                time.sleep(ORIGINAL_DELAY)
            try:
                lines = lines_of(self._client, result, result["id"])
            except UnreadableLogError as error:
                self._say_of_original(result, str(error))
                return False
            for line in lines:
                self.show(line)
            if self._output.is_complete(result):
                break
        if len(lines) >= MAX_LINES:
            self._say_of_original(result, f"gives the last {MAX_LINES} lines at most")
        return True

    def _say_of_original(self, result: dict[str, Any], text: str) -> None:
        """Says it once, though its log may be read while the job runs and at its end."""
        said = f"agent {agent_name(result)} is an original one and {text}"
        if said not in self._said:
            self._said.add(said)
            self._output.note(result, said)

    def _originals_of(self, job: dict[str, Any]) -> set[str]:
        """The original agents among those of the job: who uploaded lines of it is none."""
        found = self._patiently(lambda: originals_among(self._client, self._output.maybe_originals(job)))
        self._output.originals |= found
        return self._output.originals

    def _fetch(self, wait: float = 0.0) -> bool:
        """Shows the lines that are there, or come within ``wait`` seconds; True when the place has moved."""
        asked: dict[str, Any] = {"after": self._after, "limit": 2000}
        if self._run:
            asked["run"] = self._run
        if wait:
            asked.update(follow=1, open=self._open)
        answer = self._patiently(lambda: self._client.get(f"{self._path}/logs", wait, **asked))
        before = (self._run, self._after)
        run = answer.get("run", "")
        if run != self._run:
            self._output.restarted = bool(self._run)
            self._run = run
            self._seen = 0
        lost = max(0, answer["dropped"] - self._seen)  # what was dropped after it was seen is not lost
        self._output.lost += lost
        self._seen += lost + len(answer["lines"])
        with self._output.together():
            for line in answer["lines"]:
                self.show(line)
            self._output.take_open(answer.get("open", []))
        self._open = answer.get("open_mark", "0")
        self._after = answer["next"]
        self._finished = bool(answer["finished"])
        return (self._run, self._after) != before

    def show(self, line: dict[str, Any]) -> None:
        """Shows a line once: an agent sends a batch again that the controller did not acknowledge."""
        key = (line["gid"], line["nid"], line["id"])
        if key in self._ids:
            return
        if line["id"]:
            self._ids[key] = None
        if len(self._ids) > MAX_IDS:
            self._ids.popitem(last=False)
        self._output.line(line)

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
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
