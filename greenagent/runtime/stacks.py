"""Stacks of what is stuck, in one line, read without touching a file: safe in a native thread."""

from __future__ import annotations

from types import FrameType

DEEPEST = 12
"""Frames shown; the innermost count."""


def describe_stack(frame: FrameType | None, deepest: int = DEEPEST) -> str:
    """``function file:line < caller file:line < ...``, innermost first."""
    places: list[str] = []
    while frame is not None and len(places) < deepest:
        code = frame.f_code
        places.append(f"{code.co_name} {code.co_filename.rpartition('/')[2]}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(places) or "no Python stack"
