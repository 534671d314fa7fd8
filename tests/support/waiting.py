"""Waiting for a condition instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import gevent

Value = TypeVar("Value")

PATIENCE = 4
"""How many times slower than a quiet one a machine may be before a wait fails: only a test that fails waits so long."""
LEAST = 60
"""Seconds that every wait has: a busy machine may hold up any process for several of them."""


def wait_until(
    condition: Callable[[], Value], timeout: float = 15, what: str = "the condition", interval: float = 0.005
) -> Value:
    """Polls ``condition`` until it is true and returns its value; fails the test after ``timeout`` seconds.

    ``timeout`` is for a quiet machine; see ``PATIENCE`` and ``LEAST``.
    Yields to the hub between polls, so servers and greenlets of the test itself go on.
    """
    patience = max(timeout * PATIENCE, LEAST)
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {patience:g} s in vain for {what}")
        gevent.sleep(interval)
