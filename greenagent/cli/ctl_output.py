"""Showing a job's output once: live lines first, and from the result what did not come as lines."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any, Final

from greenagent.values import levels

STREAM_LINES: Final = 1000
"""A result keeps so many lines of each stream (protocol 4.1)."""
STREAMS: Final = (levels.STDOUT, levels.STDERR)
Source = tuple[int, int, int]


class LiveOutput:
    """Prints level 1 to stdout and other text of the job to stderr, and remembers what it printed."""

    def __init__(self, prefix: bool, quiet: bool = False) -> None:
        """``prefix``: every line begins with gid:nid. ``quiet``: print nothing."""
        self._prefix = prefix
        self._quiet = quiet
        self._shown: dict[Source, deque[str]] = {}

    def prefix_of(self, item: dict[str, Any]) -> str:
        return f"{item['gid']}:{item['nid']} " if self._prefix else ""

    def line(self, line: dict[str, Any]) -> None:
        """Prints one uploaded line."""
        level = line["level"]
        if level in STREAMS:
            shown = self._shown.setdefault((line["gid"], line["nid"], level), deque(maxlen=STREAM_LINES))
            for text in line["data"].split("\n"):
                shown.append(text)
                self._print(self.prefix_of(line), level, text)
        elif level <= levels.CRITICAL or level == levels.DEBUG:
            for text in line["data"].split("\n"):
                self._print(self.prefix_of(line), levels.STDERR, text)

    def is_complete(self, result: dict[str, Any]) -> bool:
        """True when everything the result's streams hold has been printed."""
        return all(not self._missing(result, level, texts) for level, texts in _streams(result))

    def complete(self, result: dict[str, Any]) -> None:
        """Prints what the result's streams hold beyond the lines that came."""
        for level, texts in _streams(result):
            missing = self._missing(result, level, texts)
            shown = self._shown.get((result["gid"], result["nid"], level))
            if len(missing) >= STREAM_LINES or (missing and result.get("truncated")):
                self._say_cut(result, level, bool(shown))
            for text in missing:
                self._print(self.prefix_of(result), level, text)

    def _missing(self, result: dict[str, Any], level: int, texts: list[str]) -> list[str]:
        """The lines of a stream behind the last one that was printed."""
        shown = list(self._shown.get((result["gid"], result["nid"], level), ()))
        for count in range(min(len(shown), len(texts)), 0, -1):
            if shown[-count:] == texts[:count]:
                return texts[count:]
        return texts

    def _say_cut(self, result: dict[str, Any], level: int, some_shown: bool) -> None:
        name = "stdout" if level == levels.STDOUT else "stderr"
        gap = "after a gap, " if some_shown else ""
        self._print(
            self.prefix_of(result),
            levels.STDERR,
            f"greenagent-ctl: {gap}only the last lines of {name} of {result['gid']}:{result['nid']} follow;"
            " the agent's log has all",
        )

    def _print(self, prefix: str, level: int, text: str) -> None:
        if self._quiet:
            return
        stream = sys.stdout if level == levels.STDOUT else sys.stderr
        print(f"{prefix}{text}", file=stream, flush=True)


def _streams(result: dict[str, Any]) -> list[tuple[int, list[str]]]:
    streams = result.get("streams") or []
    return [
        (level, text.removesuffix("\n").split("\n") if text else [])
        for level, text in zip(STREAMS, streams, strict=False)
    ]
