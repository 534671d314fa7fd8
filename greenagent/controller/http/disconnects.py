"""Notices at once when the agent behind a parked poll has hung up."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey

_new_epoll: Callable[[], Any] = monkey.get_original("select", "epoll")
"""gevent takes it out of the module, since it would block the hub; with a timeout of 0 it does not."""


class DisconnectWatch:
    """One epoll over all parked polls; its own descriptor is watched by the hub.

    The bytes of the connection are left alone, so that it works for TLS as well: what counts is
    that the other side has closed it.
    """

    def __init__(self) -> None:
        self._epoll = _new_epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._watcher = gevent.get_hub().loop.io(self._epoll.fileno(), 1)
        self._watcher.start(self.look)

    def add(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Calls ``callback`` once when the other side closes; it must not block."""
        self._callbacks[descriptor] = callback
        self._epoll.register(descriptor, select.EPOLLRDHUP)

    def remove(self, descriptor: int) -> None:
        """Stops watching; to be called before the descriptor is closed."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def look(self) -> None:
        """Calls back for all connections that are closed by now."""
        while closed := self._epoll.poll(0, 256):
            for descriptor, _ in closed:
                callback = self._callbacks[descriptor]
                self.remove(descriptor)
                callback()

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self._epoll.close()
