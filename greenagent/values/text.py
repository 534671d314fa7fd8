"""Text of others, made safe for a terminal."""

from __future__ import annotations


def visible(text: str, keep: str = "\t\n") -> str:
    """Control characters as escapes, but for those to ``keep``: a job must not steer the reader's terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)
