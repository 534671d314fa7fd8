"""Showing a job's output once: live lines first, and from the result what did not come as lines."""

from __future__ import annotations

import shlex
import sys
from collections import deque
from typing import Any, Final

from greenagent.values import levels, states

STREAM_LINES: Final = 1000
"""A result keeps so many lines of each stream (protocol 4.1)."""
STREAMS: Final = (levels.STDOUT, levels.STDERR)
GAVE_UP: Final = "greenagent: given up after "
"""So begins the critical line of an agent whose restarts did not help (protocol 5.3)."""
Source = tuple[int, int, int]
Shown = tuple[str, int]
"""A line that was printed, and its stamp in milliseconds."""


def as_argument(job_id: str) -> str:
    """A job's id as the shell has to be given it."""
    return f"{'-- ' if job_id.startswith('-') else ''}{shlex.quote(job_id)}"


class LiveOutput:
    """Prints level 1 to stdout and other text of the job to stderr, and remembers what it printed."""

    def __init__(self, prefix: bool, quiet: bool = False) -> None:
        """``prefix``: every line begins with gid:nid. ``quiet``: print nothing."""
        self._prefix = prefix
        self._quiet = quiet
        self._shown: dict[Source, deque[Shown]] = {}
        self._critical: dict[tuple[int, int], Shown] = {}
        self._heard: set[tuple[int, int]] = set()
        self.restarted = False
        """The controller was started again meanwhile: lines it had not given yet are gone with it."""
        self.was_away = False
        """The controller could not be reached for a while: lines may come late, or be gone with it."""

    def prefix_of(self, item: dict[str, Any]) -> str:
        return f"{item['gid']}:{item['nid']} " if self._prefix else ""

    def line(self, line: dict[str, Any]) -> None:
        """Prints one uploaded line."""
        level, agent, stamp = line["level"], (line["gid"], line["nid"]), line["epoch_ms"]
        self._heard.add(agent)
        if level in STREAMS:
            shown = self._shown.setdefault((*agent, level), deque(maxlen=STREAM_LINES))
            for text in line["data"].split("\n"):
                shown.append((text, stamp))
                self._print(self.prefix_of(line), level, text)
        elif level <= levels.CRITICAL or level == levels.DEBUG:
            if level == levels.CRITICAL:
                self._critical[agent] = (line["data"], stamp)
            for text in line["data"].split("\n"):
                self._print(self.prefix_of(line), levels.STDERR, text)

    def is_complete(self, result: dict[str, Any]) -> bool:
        """True when everything the result tells of has been printed."""
        if _has_given_up(result):
            text, stamp = self._critical.get((result["gid"], result["nid"]), ("", 0))
            if not text.startswith(GAVE_UP) or stamp < result["starttime"]:
                return False
        return not any(self._missing(result, level, texts)[0] for level, texts in _streams(result))

    def complete(self, result: dict[str, Any]) -> None:
        """Prints what the result's streams hold beyond the lines that came."""
        if (result["gid"], result["nid"]) not in self._heard and any(texts for _, texts in _streams(result)):
            why = 'this agent uploads no lines of this job ([logging] type "AC")'
            if self.was_away:
                why = "the controller was away and has no lines of this job yet"
            self._say(result, f"{why}; showing the end of its result")
        for level, texts in _streams(result):
            missing, follows = self._missing(result, level, texts)
            if missing:
                self._say_missing(result, level, len(missing), follows)
            for text in missing:
                self._print(self.prefix_of(result), level, text)

    def _missing(self, result: dict[str, Any], level: int, texts: list[str]) -> tuple[list[str], str]:
        """The lines of a stream that were not printed, and how they follow: next, holes, gap, again."""
        kept = self._shown.get((result["gid"], result["nid"], level), ())
        # A result has the streams of the last run, while the lines are those of all runs.
        begun = result["starttime"] if _may_run_again(result) else 0
        shown = [text for text, stamp in kept if stamp >= begun]
        if not shown:
            return texts, "next"
        is_end = len(texts) >= STREAM_LINES or bool(result.get("truncated"))
        if (not is_end or shown[-1:] == texts[-1:]) and (left := _left_over(shown, texts)) is not None:
            return left, "next" if shown == texts[: len(shown)] else "holes"
        for count in range(min(len(shown), len(texts)), 0, -1):
            if shown[-count:] == texts[:count]:
                return texts[count:], "next"
        for first, text in enumerate(shown if is_end else ()):
            if text == texts[0] and (left := _left_over(shown[first:], texts)) is not None:
                return left, "holes"
        return texts, "gap" if is_end else "again"

    def _say_missing(self, result: dict[str, Any], level: int, count: int, follows: str) -> None:
        name = "stdout" if level == levels.STDOUT else "stderr"
        agent = f"{result['gid']}:{result['nid']}"
        why = "the controller was restarted; " if self.restarted else ""
        if follows == "holes":
            self._say(result, f"{why}lines of {name} of {agent} that are missing above follow here: {count}")
        elif follows == "again":
            self._say(result, f"{why}the whole output follows once more ({name} of {agent})")
        elif follows == "gap" or count >= STREAM_LINES or result.get("truncated"):
            gap = "after a gap, " if follows == "gap" else ""
            self._say(
                result,
                f"{why}{gap}only the last {count} lines of {name} of {agent} follow;"
                f" all are shown there by: greenagent-logs --job {result['id']}",
            )

    def _say(self, result: dict[str, Any], text: str) -> None:
        self._print(self.prefix_of(result), levels.STDERR, f"greenagent-ctl: {text}")

    def _print(self, prefix: str, level: int, text: str) -> None:
        if self._quiet:
            return
        stream = sys.stdout if level == levels.STDOUT else sys.stderr
        print(f"{prefix}{text}", file=stream, flush=True)


def say(text: str) -> None:
    """One line of our own on stderr; nothing happens where nobody reads that either."""
    try:
        print(f"greenagent-ctl: {text}", file=sys.stderr, flush=True)
    except OSError:
        pass


def _left_over(shown: list[str], texts: list[str]) -> list[str] | None:
    """The texts beside those shown, which come in the same order; None if something else was shown."""
    left = []
    place = 0
    for text in texts:
        if place < len(shown) and shown[place] == text:
            place += 1
        else:
            left.append(text)
    return left if place == len(shown) else None


def _argument(result: dict[str, Any], name: str) -> Any:
    args = result.get("args")
    return args.get(name) if isinstance(args, dict) else None


def _may_run_again(result: dict[str, Any]) -> bool:
    return bool(_argument(result, "max_restart") or _argument(result, "recurring_period"))


def _has_given_up(result: dict[str, Any]) -> bool:
    """Restarts were asked for and did not help: the agent says so in a line of its own."""
    failed = result.get("state") in (states.ERROR, states.TIMEOUT)
    return failed and bool(_argument(result, "max_restart")) and result.get("delivered", True) is not False


def _streams(result: dict[str, Any]) -> list[tuple[int, list[str]]]:
    streams = result.get("streams") or []
    return [
        (level, text.removesuffix("\n").split("\n") if text else [])
        for level, text in zip(STREAMS, streams, strict=False)
    ]
