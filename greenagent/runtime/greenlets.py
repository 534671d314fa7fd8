"""Greenlets that cannot die unseen."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any

import gevent
from gevent import Greenlet

from greenagent.runtime.voice import Voice


class Supervisor:
    """Spawns greenlets, says when one dies of an error, and restarts those that must live.

    A service that keeps dying (``limit`` times in a row within a minute each) is fatal:
    ``on_fatal(reason)`` is called once, and the agent stops loudly instead of limping.
    """

    def __init__(self, voice: Voice, on_fatal: Callable[[str], None], limit: int = 5) -> None:
        self._voice = voice
        self._on_fatal = on_fatal
        self._limit = limit
        self._greenlets: set[Greenlet] = set()

    def spawn(self, name: str, function: Callable[..., Any], *args: Any) -> Greenlet:
        """Runs ``function`` once; its death by an error is said."""
        return self._track(gevent.spawn(self._once, name, function, args))

    def service(self, name: str, function: Callable[..., Any], *args: Any) -> Greenlet:
        """Runs ``function`` until it returns, again after 1 s whenever it dies of an error."""
        return self._track(gevent.spawn(self._for_ever, name, function, args))

    def kill_all(self) -> None:
        """Ends every greenlet that is left, at the agent's end."""
        gevent.killall([greenlet for greenlet in self._greenlets if greenlet is not gevent.getcurrent()])

    def _track(self, greenlet: Greenlet) -> Greenlet:
        self._greenlets.add(greenlet)
        greenlet.rawlink(self._greenlets.discard)
        return greenlet

    def _once(self, name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        try:
            return function(*args)
        except Exception as error:
            self._report(name, error)
            return None

    def _for_ever(self, name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        deaths = 0
        while True:
            began = time.monotonic()
            try:
                function(*args)
                return
            except Exception as error:
                self._report(name, error)
            deaths = deaths + 1 if time.monotonic() - began < 60 else 1
            if deaths >= self._limit:
                self._on_fatal(f"{name} died {deaths} times in a row")
                return
            gevent.sleep(1)

    def _report(self, name: str, error: Exception) -> None:
        """An error that gets here is our own bug: it is said with its place, still in one line."""
        frames = traceback.extract_tb(error.__traceback__)
        place = " < ".join(
            f"{frame.name} {frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[:-6:-1]
        )
        self._voice.error(f"internal error in {name}: {type(error).__name__}: {error} (at {place}); please report this")
