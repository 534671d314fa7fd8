"""Noting that a part has been called, instead of sleeping until it should have been."""

from __future__ import annotations

from typing import Any

import pytest


def note_calls(monkeypatch: pytest.MonkeyPatch, part: Any, name: str) -> list[tuple[Any, ...]]:
    """The arguments of every call of a method, which does what it did before.

    A call that is noted has come as far as it can without another greenlet: to a lock, to a write or to its end.
    """
    called: list[tuple[Any, ...]] = []
    method = getattr(part, name)

    def noted(*arguments: Any) -> Any:
        called.append(arguments)
        return method(*arguments)

    monkeypatch.setattr(part, name, noted)
    return called
