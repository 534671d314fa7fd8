"""Message levels and level lists (protocol 2.3 and 3.3, design, section 5 "Messages and logs")."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from greenagent.values.errors import LevelError

STDOUT: Final = 1
STDERR: Final = 2
PUBLIC: Final = 3
OPERATOR: Final = 4
LOG: Final = 5
LOG_STRUCTURED: Final = 6
WARNING: Final = 7
OPERATIONS_ERROR: Final = 8
CRITICAL: Final = 9
STATISTICS: Final = 10
DEBUG: Final = 11
RESULT_JSON: Final = 20
RESULT_YAML: Final = 21
RESULT_TOML: Final = 22
RESULT_HRD: Final = 23
JOB_RESULT: Final = 30
EXIT_STATE: Final = 50
"""Internal to a later generation; from a child it becomes level 2."""
PROCESS_ANNOUNCEMENT: Final = 101

RESULTS: Final = frozenset({RESULT_JSON, RESULT_YAML, RESULT_TOML, RESULT_HRD, JOB_RESULT})

NAMES: Final[dict[int, str]] = {
    STDOUT: "stdout",
    STDERR: "stderr",
    PUBLIC: "public",
    OPERATOR: "operator",
    LOG: "log",
    LOG_STRUCTURED: "structured",
    WARNING: "warning",
    OPERATIONS_ERROR: "error",
    CRITICAL: "critical",
    STATISTICS: "statistics",
    DEBUG: "debug",
    RESULT_JSON: "result",
    RESULT_YAML: "result-yaml",
    RESULT_TOML: "result-toml",
    RESULT_HRD: "result-hrd",
    JOB_RESULT: "job-result",
}

_PART = re.compile(r"([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?\Z")


@dataclass(frozen=True, slots=True, repr=False)
class LevelSet:
    """An immutable set of levels: every level, or a union of inclusive ranges (low, high), sorted and disjoint.

    Ranges are kept as ranges, since ``1-999999999`` is a legal list; there are none when all levels are meant.
    """

    ranges: tuple[tuple[int, int], ...] = ()
    everything: bool = False

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> LevelSet:
        """The union of ranges, which may overlap."""
        merged: list[tuple[int, int]] = []
        for low, high in sorted(ranges):
            if merged and low <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        return cls(tuple(merged))

    def __contains__(self, level: object) -> bool:
        if self.everything:
            return True
        return isinstance(level, int) and any(low <= level <= high for low, high in self.ranges)

    def __str__(self) -> str:
        if self.everything:
            return "*"
        return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in self.ranges)

    def __repr__(self) -> str:
        return f"LevelSet({str(self)!r})"


ALL_LEVELS: Final = LevelSet(everything=True)


def parse_levels(value: Any) -> LevelSet | None:
    """Reads a level list as received; None means "not given": the logger's own default holds.

    Accepts text (``"1,3-5"``, ``"*"``), a bare number, or a list of numbers and texts.
    Raises LevelError with the reason for anything else (protocol 2.3, design, section 5 "Messages and logs").
    """
    if value is None:
        return None
    parts: list[Any]
    if isinstance(value, str):
        if not value.strip():
            return None
        parts = [part for part in value.split(",") if part.strip()]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        parts = [value]
    elif isinstance(value, (list, tuple)):
        if not value:
            return None
        parts = list(value)
    else:
        raise LevelError(f"a level list is text, a number or a list, not {value!r}")
    ranges: list[tuple[int, int]] = []
    everything = False
    for part in parts:
        if isinstance(part, str) and part.strip() == "*":
            everything = True
        else:
            ranges.append(_parse_part(part))
    if everything:
        return ALL_LEVELS
    if not ranges:
        raise LevelError(f"the level list {value!r} names no level")
    return LevelSet.of(ranges)


def _parse_part(part: Any) -> tuple[int, int]:
    if isinstance(part, float) and part.is_integer():
        part = int(part)
    if isinstance(part, int) and not isinstance(part, bool):
        part = str(part)
    if not isinstance(part, str):
        raise LevelError(f"{part!r} is not a level")
    match = _PART.match(part.strip())
    if match is None:
        raise LevelError(f"{part.strip()!r} is not a level, a range of levels or *")
    low = int(match.group(1))
    high = int(match.group(2)) if match.group(2) is not None else low
    if low < 1:
        raise LevelError(f"levels begin at 1, not {low}")
    if high < low:
        raise LevelError(f"the range {part.strip()} is reversed")
    return low, high
