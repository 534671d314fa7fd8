"""Showing a job's output once: live lines first, and from the result what did not come as lines."""

from __future__ import annotations

import shlex
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeGuard

from greenagent.cli.common import print_error
from greenagent.cli.unfinished import UNFINISHED, Unfinished
from greenagent.values import levels, states

PROGRAM: Final = "greenagent-ctl"
STREAM_LINES: Final = 1000
"""Lines of each stream that a result keeps (protocol 4.1)."""
STREAMS: Final = {levels.STDOUT: "stdout", levels.STDERR: "stderr"}
GAVE_UP: Final = "greenagent: given up after "
"""The beginning of an agent's critical line when restarts did not help (protocol 5.3)."""
Shown = tuple[str, int]
"""A line that was printed, and its stamp in milliseconds."""


def note(text: str) -> None:
    """One line of our own on stderr."""
    print_error(PROGRAM, text)


def agent_name(item: dict[str, Any]) -> str:
    """``gid:nid`` of the agent that an object of the API is about."""
    return f"{item['gid']}:{item['nid']}"


def agent_state(agent: dict[str, Any]) -> str:
    """What tables of agents say of one: an older controller does not tell who has stopped."""
    if agent["live"]:
        return "live"
    return "stopped" if agent.get("stopped") else "away"


def as_argument(job_id: str) -> str:
    """A job's id as it must be given to the shell."""
    return f"{'-- ' if job_id.startswith('-') else ''}{shlex.quote(job_id)}"


def node_logs(job_id: str) -> str:
    """The command that shows all lines of a job on the machine of its agent."""
    return f"greenagent-logs --job{'=' if job_id.startswith('-') else ' '}{shlex.quote(job_id)}"


def exit_shown(result: dict[str, Any]) -> str:
    """How it ended, behind the state of a result: its exit code or signal, if it has one."""
    if result.get("exit_code") is not None:
        return f", exit code {result['exit_code']}"
    return f", {result['signal']}" if result.get("signal") else ""


def outcome(result: dict[str, Any]) -> str:
    """How a job that did not succeed ended, in one line."""
    where = f" on {agent_name(result)}" if result["nid"] else ""  # else no agent has had it
    text = f"job {result['id']}{where} ended {result['state']}"
    data = " ".join(str(result.get("data") or "").split())
    if result.get("signal") and not data:
        data = f"by {result['signal']}"
    return f"{text}: {data}" if data else text


class ToldLines(NamedTuple):
    """What a result tells of the lines that its agent sends."""

    total: int
    by_level: dict[int, int] | None
    """None of an agent of before, which told a number alone."""
    lost: int
    """Those of them that it could not store; it may know of more later."""


def told_lines(result: dict[str, Any]) -> ToldLines | None:
    """None where it tells nothing."""
    lines = result.get("lines")
    known = result.get("lost")
    lost = known if _is_count(known) else 0
    if _is_count(lines):
        return ToldLines(lines, None, lost)
    if not isinstance(lines, dict) or not all(map(_is_count, lines.values())):
        return None
    by_level = {int(level): count for level, count in lines.items() if level.isascii() and level.isdigit()}
    return ToldLines(sum(lines.values()), by_level, lost)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class LiveOutput:
    """Prints level 1 to stdout and other text of the job to stderr, and remembers what it printed.

    Text is every level but statistics and results; one that is none of the protocol's is printed with its number.
    """

    def __init__(self, prefix: bool, quiet: bool = False, bare: bool = False) -> None:
        """``prefix``: of a fan-out, every line begins with gid:nid; ``bare``: but those of the job do not.

        ``quiet``: print nothing.
        """
        self._prefix = prefix
        self._bare = bare
        self._quiet = quiet
        self._shown: dict[tuple[str, int], deque[Shown]] = {}
        """By agent and level."""
        self._critical: dict[str, Shown] = {}
        self._counts: Counter[tuple[str, int]] = Counter()
        """By agent and level, the lines that came."""
        self._agents: set[str] = set()
        """Agents of which lines came."""
        self.originals: set[str] = set()
        """Agents that upload no lines of a job; they are asked for those in their logs."""
        self._open: Unfinished[dict[str, Any]] = Unfinished()
        self._is_together = False
        self.lost = 0
        """Lines that the controller dropped before they were asked for."""
        self.restarted = False
        """The controller was started again meanwhile: lines it had not given yet are gone with it."""
        self.was_away = False
        """The controller could not be reached for a while: lines may come late, or be gone with it."""

    def line(self, line: dict[str, Any]) -> None:
        """Prints one uploaded line."""
        agent, level, stamp = agent_name(line), line["level"], line["epoch_ms"]
        self._agents.add(agent)
        self._counts[agent, level] += 1
        texts = line["data"].split("\n")
        if level in STREAMS:
            shown = self._shown.setdefault((agent, level), deque(maxlen=STREAM_LINES))
            shown.extend((text, stamp) for text in texts)
        elif level == levels.CRITICAL:
            self._critical[agent] = (line["data"], stamp)
        if level == levels.STATISTICS or level in levels.RESULTS:
            return
        if level not in levels.NAMES:
            texts[0] = f"{level}::{texts[0]}"  # very likely text of a program that knows nothing of levels
        self.show(line, level, texts)

    def take_open(self, found: Iterable[dict[str, Any]]) -> None:
        """What streams have begun to print and not ended: shown when it is seen first and when it stands still."""
        texts = (one for one in found if one["level"] != levels.STATISTICS and one["level"] not in levels.RESULTS)
        for one in self._open.news({(agent_name(one), one["stream"], one["epoch_ms"]): one for one in texts}):
            self.open_text(one)

    @property
    def awaits_open(self) -> bool:
        """True while open text has changed since it was shown."""
        return self._open.awaits

    def open_text(self, one: dict[str, Any]) -> None:
        """Prints open text, marked, on stderr: stdout has whole lines alone."""
        self.show(one, levels.STDERR, (one["data"] + UNFINISHED).split("\n"))

    def is_complete(self, result: dict[str, Any]) -> bool:
        """True when everything the result tells of has been printed."""
        if (told := told_lines(result)) is not None:
            return told.total <= self._came(result)
        if _has_given_up(result):
            text, stamp = self._critical.get(agent_name(result), ("", 0))
            if not text.startswith(GAVE_UP) or stamp < result["starttime"]:
                return False
        return not any(self._missing(result, level, texts)[0] for level, texts in _streams(result))

    def has_lines_of(self, result: dict[str, Any]) -> bool:
        """Whether lines of the agent of a result came."""
        return agent_name(result) in self._agents

    def maybe_originals(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        """The results and placeholders of agents that have or had the job, which may be originals: no line came.

        Our agents tell an exit code, or that there is none, in each result.
        """
        return [
            result
            for result in job["results"]
            if result["state"] != states.QUEUED
            and result.get("delivered", True) is not False
            and "exit_code" not in result
            and not self.has_lines_of(result)
        ]

    def _came(self, result: dict[str, Any]) -> int:
        """Lines that came of the agent of a result, and those that the controller dropped before, where it has any."""
        name = agent_name(result)
        came = sum(count for (agent, _), count in self._counts.items() if agent == name)
        return came if self._prefix else came + self.lost  # of a fan-out nobody tells whose they were

    def awaited(self, results: list[dict[str, Any]]) -> int | None:
        """How many lines may still come of those that results tell of; None where one does not tell.

        Not those that an agent knows to be lost, nor as many as the controller has dropped.
        """
        left = -self.lost if self._prefix else 0
        for result in results:
            told = told_lines(result)
            if told is None:
                return None
            left += max(0, told.total - told.lost - self._came(result))
        return max(0, left)

    def complete(self, result: dict[str, Any]) -> int:
        """Prints what the result's streams hold beyond the lines that came; returns how many lines are not shown."""
        told = told_lines(result)
        missing = max(0, told.total - self._came(result)) if told is not None else 0
        if missing or told is None or not self.has_lines_of(result):
            self._tell_why(result, missing, min(missing, told.lost) if told is not None else 0)
        added, not_kept = 0, False
        for level, texts in _streams(result):
            if told is not None and self._has_all(result, level, told, missing):
                continue  # its lines may be equal, and are not looked for again
            left, follows = self._missing(result, level, texts)
            if left:
                not_kept |= self._announce(result, level, len(left), follows, told is not None and told.lost > 0)
            self.show(result, level, left)
            added += len(left)
        return max(missing - added, int(not_kept))

    def _has_all(self, result: dict[str, Any], level: int, told: ToldLines, missing: int) -> bool:
        """Whether all lines of a stream came that the result tells of, if it tells of any."""
        came = self._counts[agent_name(result), level]
        if told.by_level is None:
            return missing == 0 and came > 0
        return 0 < told.by_level.get(level, 0) <= came

    def _tell_why(self, result: dict[str, Any], missing: int, lost: int) -> None:
        """Says what has become of lines that did not come."""
        has_text = any(texts for _, texts in _streams(result))
        whys = []
        if lost:
            whys.append(f"{lost} lines of this job are lost: its agent could not store them")
        if missing > lost and self._prefix and self.lost:
            whys.append(f"{missing - lost} lines of this job have not come")  # of those that the controller dropped
        elif missing > lost:
            late = f"{missing - lost} lines of this job have not been uploaded yet"
            whys.append(f"{late}; greenagent-ctl logs {as_argument(result['id'])} shows them later")
        if not whys and has_text and agent_name(result) not in self._agents | self.originals:
            why = 'this agent uploads no lines of this job ([logging] type "AC")'
            if self.was_away:
                why = "the controller was away and has no lines of this job yet"
            whys.append(why)
        for number, why in enumerate(whys, 1):
            self.note(result, f"{why}; showing the end of its result" if has_text and number == len(whys) else why)

    def _missing(self, result: dict[str, Any], level: int, texts: list[str]) -> tuple[list[str], str]:
        """The lines of a stream that were not printed, and how they follow: next, holes, gap, again."""
        kept = self._shown.get((agent_name(result), level), ())
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

    def _announce(self, result: dict[str, Any], level: int, count: int, follows: str, are_lost: bool) -> bool:
        """Says what the lines are that follow, where they do not just go on; True where there were more before them.

        ``are_lost``: not even the agent has all of them.
        """
        stream = f"{STREAMS[level]} of {agent_name(result)}"
        why = "the controller was restarted; " if self.restarted else ""
        if follows == "holes":
            self.note(result, f"{why}lines of {stream} that are missing above follow here: {count}")
        elif follows == "again":
            self.note(result, f"{why}the whole output follows once more ({stream})")
        elif follows == "gap" or count >= STREAM_LINES or result.get("truncated"):
            gap = "after a gap, " if follows == "gap" else ""
            where = f"; all are shown there by: {node_logs(result['id'])}"
            where = "" if are_lost or agent_name(result) in self.originals else where
            self.note(result, f"{why}{gap}only the last {count} lines of {stream} follow{where}")
            return True
        return False

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is printed to stdout within it is written in as few pieces as it takes, not line by line."""
        self._is_together = True
        try:
            yield
        finally:
            self._is_together = False
            sys.stdout.flush()

    def note(self, item: dict[str, Any], text: str) -> None:
        """Prints a line of our own about an agent."""
        self._print(item, levels.STDERR, [f"{PROGRAM}: {text}"], self._prefix)

    def show(self, item: dict[str, Any], level: int, texts: Iterable[str]) -> None:
        """Prints lines of the agent that ``item`` is about."""
        self._print(item, level, texts, self._prefix and not self._bare)

    def _print(self, item: dict[str, Any], level: int, texts: Iterable[str], names_agent: bool) -> None:
        if self._quiet:
            return
        stream = sys.stdout if level == levels.STDOUT else sys.stderr
        if stream is sys.stderr:
            sys.stdout.flush()  # or what was printed before on the other stream would be seen after it
        prefix = f"{agent_name(item)} " if names_agent and item["nid"] else ""  # none had it where there is no nid
        stream.writelines(f"{prefix}{text}\n" for text in texts)
        if not self._is_together or stream is sys.stderr:
            stream.flush()


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
