"""Greenlets that cannot die unseen, and waits that others can end."""

from __future__ import annotations

import os
import select
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import gevent
from gevent import Greenlet, GreenletExit, monkey

from greenagent.runtime.agent_log import AgentLog

_native_poll = monkey.get_original("select", "poll")
_PAGE = 4096
_MAX_FRAMES = 12
"""Frames shown of a stack; the innermost count."""

SLICE = 0.002
"""Seconds of work between two turns of the hub."""
RESTART_DELAY = 1.0
"""Seconds between a service's death and its restart."""
HEALTHY_AFTER = 60.0
"""Seconds a service must run for its earlier deaths to be forgotten."""
HEALTHY_AFTER_STUCK = 3600.0
"""The same for a service that was stuck: that takes minutes to be noticed."""
LOOK_AGAIN = 0.01
"""Seconds until an interruption that is held back is tried again."""
RESTARTING = "being started again"
"""``Heartbeat.activity`` after ``restart_stuck``, until the restarted service says what it does."""


class TimeSlice:
    """Gives way to the hub when it is called more than ``SLICE`` after the last time: for long work in slices."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._began > SLICE:
            gevent.sleep(0.001)  # sleep(0) would let greenlets run, but not the loop's input
            self._began = time.monotonic()


class _HubTurn:
    """The present turn of the hub, and since when greenlets have been at work in it that call ``give_way``."""

    def __init__(self) -> None:
        self._turn = -1
        self._since = 0.0

    def give_way(self) -> None:
        """Lets the hub have its turn when those who call this have used ``SLICE`` of the present one.

        For what comes from outside as fast as somebody likes: a read of what is there already never waits, so it
        neither lets anybody else run nor any ``gevent.Timeout`` end it. Costs a microsecond.
        """
        loop = gevent.get_hub().loop
        turn = getattr(loop, "iteration", 0)  # libuv does not count
        now = time.monotonic()
        if turn != self._turn:
            self._turn, self._since = turn, now
        elif now - self._since > SLICE:
            gevent.sleep(0.001)  # see TimeSlice
            if turn == getattr(loop, "iteration", 0):
                self._since = time.monotonic()


give_way = _HubTurn().give_way


class StuckError(Exception):
    """Thrown into a service that does not get on, so that it dies and is run again."""


class Heartbeat:
    """A service's promise to be back by a deadline: how the watchdog tells stuck from busy.

    Set by the service, read by the watchdog; both on the hub.
    """

    def __init__(self) -> None:
        self.activity = ""
        """What the service is doing, in words for people."""
        self._deadline: float | None = None

    def expect_within(self, seconds: float, activity: str) -> None:
        """``activity`` ends within ``seconds``; a service that takes longer is stuck."""
        self._deadline = time.monotonic() + seconds
        self.activity = activity

    def clear(self) -> None:
        """The service waits for something that may never come, and is not stuck while it does."""
        self._deadline = None
        self.activity = ""

    def follow(self, other: Heartbeat) -> None:
        """The service waits for the one behind ``other``: takes over its deadline and activity."""
        self._deadline = other._deadline
        self.activity = other.activity

    def postpone(self, seconds: float) -> None:
        """Moves the deadline: the whole process stood still for ``seconds``."""
        if self._deadline is not None:
            self._deadline += seconds

    @property
    def overdue(self) -> float:
        """Seconds past the deadline; 0 when all is well."""
        return 0.0 if self._deadline is None else max(0.0, time.monotonic() - self._deadline)


class Service:
    """One service as the supervisor knows it, for health and the watchdog."""

    def __init__(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], heartbeat: Heartbeat) -> None:
        self.name = name
        self.function = function
        self.args = args
        self.heartbeat = heartbeat
        self.greenlet: Greenlet
        self.deaths = 0
        """Deaths in a row."""
        self.last_error = ""
        self.is_restarting = False
        """True between a death and the next start."""
        self.has_finished = False
        """True when it returned by itself, or was ended for good."""

    @property
    def is_running(self) -> bool:
        return not self.greenlet.dead and not self.is_restarting and not self.has_finished


class Supervisor:
    """Spawns greenlets, logs when one dies of an error, and restarts services.

    A service that keeps dying (``limit`` times in a row within a minute each) is fatal:
    ``on_fatal(reason)`` is called once, and the agent stops loudly instead of limping.
    """

    def __init__(self, agent_log: AgentLog, on_fatal: Callable[[str], None], limit: int = 5) -> None:
        self._agent_log = agent_log
        self._on_fatal = on_fatal
        self._limit = limit
        self._greenlets: set[Greenlet] = set()
        self._ending = False
        self.services: dict[str, Service] = {}
        """Those that must live, by name."""

    @property
    def running(self) -> int:
        """Greenlets that have not ended, services among them."""
        return len(self._greenlets)

    def spawn(self, name: str, function: Callable[..., Any], *args: Any) -> Greenlet:
        """Runs ``function`` once; its death by an error is said."""
        return self._track(gevent.spawn(self._once, name, function, args))

    def service(
        self, name: str, function: Callable[..., Any], *args: Any, heartbeat: Heartbeat | None = None
    ) -> Greenlet:
        """Runs ``function`` until it returns, again after 1 s whenever it dies of an error.

        With ``heartbeat`` the watchdog also sees when it is stuck.
        """
        service = Service(name, function, args, heartbeat or Heartbeat())
        service.greenlet = self._track(gevent.spawn(self._for_ever, service))
        self.services[name] = service
        return service.greenlet

    def restart_stuck(self, service: Service, patience: float = 30.0) -> None:
        """Kills a stuck service, which then restarts; it counts as stuck again after ``patience`` seconds."""
        error = StuckError(f"stuck: {service.heartbeat.activity}")
        service.heartbeat.expect_within(patience, RESTARTING)
        service.greenlet.kill(error, block=False)

    def revive(self, service: Service) -> None:
        """Runs a service again whose greenlet was killed."""
        if not self._ending and service.greenlet.dead and not service.has_finished:
            service.greenlet = self._track(gevent.spawn(self._for_ever, service))

    def end(self, greenlet: Greenlet) -> None:
        """Ends a service for good: the watchdog does not bring it back."""
        for name, service in list(self.services.items()):
            if service.greenlet is greenlet:
                service.has_finished = True
                del self.services[name]
        greenlet.kill()

    def kill_all(self) -> None:
        """Ends every greenlet that is left, at the agent's end."""
        self._ending = True
        gevent.killall([greenlet for greenlet in self._greenlets if greenlet is not gevent.getcurrent()])

    def _track(self, greenlet: Greenlet) -> Greenlet:
        self._greenlets.add(greenlet)
        greenlet.rawlink(self._greenlets.discard)
        return greenlet

    def _once(self, name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        try:
            return function(*args)
        except (GreenletExit, SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # a Timeout of gevent is no Exception
            self._report(name, error)
            return None

    def _for_ever(self, service: Service) -> None:
        while True:
            began = time.monotonic()
            service.is_restarting = False
            try:
                service.function(*service.args)
                self._finished(service)
                return
            except (GreenletExit, SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._report(service.name, error)
                service.last_error = f"{type(error).__name__}: {error}"
                was_stuck = isinstance(error, StuckError)
            service.heartbeat.clear()
            steady = time.monotonic() - began >= (HEALTHY_AFTER_STUCK if was_stuck else HEALTHY_AFTER)
            service.deaths = 1 if steady else service.deaths + 1
            service.is_restarting = True
            if service.deaths >= self._limit:
                self._on_fatal(f"{service.name} died {service.deaths} times in a row")
                return
            gevent.sleep(RESTART_DELAY)

    def _finished(self, service: Service) -> None:
        service.has_finished = True
        if self.services.get(service.name) is service:
            del self.services[service.name]

    def _report(self, name: str, error: BaseException) -> None:
        _log_error(self._agent_log, name, error)


def log_hub_errors(agent_log: AgentLog) -> None:
    """Makes errors outside our greenlets (in a callback, in a greenlet that lacked memory to start) one line each."""

    def log_error(context: object, kind: object, value: BaseException, trace: object) -> None:
        _log_error(agent_log, type(context).__name__, value)

    gevent.get_hub().print_exception = log_error
    sys.unraisablehook = _log_ignored


def _log_ignored(unraisable: Any) -> None:
    """An error in a destructor, in whatever thread collects garbage: libraries have them, as ``http.client`` in 3.13.

    Not through ``AgentLog``, which belongs to the hub's thread.
    """
    where = type(unraisable.object).__name__
    write_line_now(f"debug: ignored in {where}: {unraisable.exc_type.__name__}: {unraisable.exc_value}")


def write_line_now(text: str, descriptor: int = 2) -> None:
    """One line with a stamp, for any thread; it is left out while nobody reads: that must not hold up anything."""
    line = " ".join(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}".splitlines())
    poll = _native_poll()
    poll.register(descriptor, select.POLLOUT)
    try:
        if poll.poll(0):  # a pipe that is ready takes one page; a full one would hold up the hub
            os.write(descriptor, line.encode("utf-8", "backslashreplace")[: _PAGE - 1] + b"\n")
    except OSError:
        pass


def _log_error(agent_log: AgentLog, name: str, error: BaseException) -> None:
    """An error that gets here is our own bug: one line with its place."""
    frames = traceback.extract_tb(error.__traceback__)
    place = " < ".join(f"{frame.name} {frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[:-6:-1])
    agent_log.error(f"internal error in {name}: {type(error).__name__}: {error} (at {place}); please report this")


def describe_stack(frame: FrameType | None) -> str:
    """``function file:line < caller file:line < ...``, innermost first, without touching a file: safe in any thread."""
    places: list[str] = []
    while frame is not None and len(places) < _MAX_FRAMES:
        code = frame.f_code
        places.append(f"{code.co_name} {code.co_filename.rpartition('/')[2]}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(places) or "no Python stack"


class Interrupted(BaseException):
    """Raised inside a wait that was ended from outside."""


def _never() -> bool:
    return False


class Interruptible:
    """A region (``with``) that ``interrupt`` ends from another greenlet.

    ``Greenlet.kill`` would throw at whatever the greenlet does by the time it runs; here the
    throw is called off when the region is left first.
    """

    def __init__(self) -> None:
        self._greenlet: Any = None
        self._watcher: Any = None
        self._unless: Callable[[], bool] = _never

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

    def interrupt(self, unless: Callable[[], bool] = _never) -> bool:
        """Raises Interrupted in whoever is in the region; False when nobody is, or it is on its way.

        ``unless``: asked at the very moment, and as long as it holds again and again; of several calls the last counts.
        """
        if self._greenlet is None:
            return False
        self._unless = unless
        if self._watcher is not None:
            return False
        self._watcher = gevent.get_hub().loop.timer(0, LOOK_AGAIN)
        self._watcher.start(self._throw)
        return True

    def _throw(self) -> None:
        if self._greenlet is not None and not self._unless():
            self._watcher.stop()
            self._greenlet.throw(Interrupted())
