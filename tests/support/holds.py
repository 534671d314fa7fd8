"""How long a request of a server in the test's own process keeps the hub."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import greenlet

from tests.support.inside import InsideAgent
from tests.support.local_controller import LocalController

HELD: float = 0.1
"""Seconds of processor time that a request may keep the hub, on an ordinary machine."""


@contextmanager
def longest_hold(server: LocalController | InsideAgent | None = None) -> Iterator[list[float]]:
    """The longest time in seconds that the hub was kept, at the end: by a request of the controller, by a service or
    job of the agent, or by a thread that has the interpreter meanwhile. Without either: by anything but the test
    itself."""
    longest = [0.0]
    began = time.process_time()
    pool: Any = None
    if isinstance(server, InsideAgent):
        pool = server.agent.supervisor._greenlets
    elif server is not None:
        pool = server.controller._server.pool
    own = greenlet.getcurrent()

    def switched(event: str, places: tuple[Any, Any]) -> None:
        nonlocal began
        now = time.process_time()
        left = places[0]
        if left is gevent.get_hub() or (left is not own if pool is None else left in pool):
            longest[0] = max(longest[0], now - began)
        began = now

    gc.collect()  # what other tests have left is looked through in no program
    before = greenlet.settrace(switched)
    try:
        yield longest
    finally:
        greenlet.settrace(before)
