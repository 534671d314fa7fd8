"""Notices at once when the agent behind a parked poll has hung up."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey

_new_epoll: Callable[[], Any] = monkey.get_original("select", "epoll")
"""gevent takes it out of the module, since it would block the hub; with a timeout of 0 it does not."""

_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class HangUpWatch:
    """One epoll over all parked polls; its own descriptor is watched by the hub.

    The bytes of the connection are left alone, so that it works for TLS as well: what counts is
    that the other side has closed it.
    """

    def __init__(self) -> None:
        self._epoll = _new_epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._watcher = gevent.get_hub().loop.io(self._epoll.fileno(), 1)
        self._watcher.start(self._look)

    def add(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Calls ``callback`` once when the other side closes; it must not block."""
        self._callbacks[descriptor] = callback
        self._epoll.register(descriptor, select.EPOLLRDHUP)

    def remove(self, descriptor: int) -> None:
        """Stops watching; to be called before the descriptor is closed."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self._epoll.close()

    def _look(self) -> None:
        for descriptor, _ in self._epoll.poll(0, 256):
            callback = self._callbacks.get(descriptor)
            self.remove(descriptor)
            if callback is not None:
                callback()


def has_hung_up(descriptor: int) -> bool:
    """Whether the other side has closed the connection, looked at now."""
    with _new_epoll() as epoll:
        epoll.register(descriptor, select.EPOLLRDHUP)
        return any(events & _GONE for _, events in epoll.poll(0))
