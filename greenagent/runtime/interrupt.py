"""Ending another greenlet's wait, without the risk of hitting it just after the wait."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import gevent


class Interrupted(BaseException):
    """Raised inside a wait that was ended from outside."""


class Interruptible:
    """A region (``with``) that ``interrupt`` ends from another greenlet.

    ``Greenlet.kill`` would throw at whatever the greenlet does by the time it runs; here the
    throw is called off when the region is left first.
    """

    def __init__(self) -> None:
        self._greenlet: Any = None
        self._watcher: Any = None

    def __enter__(self) -> Interruptible:
        self._greenlet = gevent.getcurrent()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._greenlet = None
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None

    def interrupt(self) -> bool:
        """Raises Interrupted in whoever is in the region; False when nobody is."""
        if self._greenlet is None or self._watcher is not None:
            return False
        self._watcher = gevent.get_hub().loop.timer(0)
        self._watcher.start(self._greenlet.throw, Interrupted())
        return True
