"""Reads what is large and may be of any shape in a process of its own.

In a native thread it would hold the interpreter, and with it the hub, as long as one call into C takes: seconds for
sixty megabytes of escapes. A child has an interpreter and memory of its own, and can be ended.
"""

from __future__ import annotations

import gc
import os
import pickle
import socket
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import gevent
from gevent.event import Event

from greenagent.runtime.greenlets import give_way
from greenagent.runtime.reading_child import Frame, Kind, ReadingError, receive, send

T = TypeVar("T")

SECONDS: Final = 5.0
BYTES_PER_SECOND: Final = 2 * 1024 * 1024
"""Reading may take so many seconds, and one more for so many bytes: ten times what an honest shape takes."""
_PROGRAM: Final = "import sys; sys.path[:] = sys.argv[1:]; from greenagent.runtime.reading_child import main; main()"


def _code() -> int:
    """Of the package's modules as they are on disk: another number once a version was installed."""
    found = set()
    for path, _, names in os.walk(Path(__file__).parents[1]):
        for name in names:
            if name.endswith(".py"):
                file = os.path.join(path, name)
                try:
                    status = os.stat(file)
                except OSError:
                    return 0  # it is being replaced just now
                found.add((file, status.st_mtime_ns, status.st_size))
    return hash(frozenset(found))


_CODE: Final = _code()


class EndedError(ReadingError):
    """The child was ended by somebody else while it read."""


class Child(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int: ...

    def kill(self) -> None:
        """Ends it at once, whatever it does."""
        ...

    def wait(self) -> object:
        """Returns when it has ended, and leaves nothing of it."""
        ...


Start = Callable[[Sequence[str], socket.socket], Child]
"""Starts a program with its arguments, in a session of its own; the socket is its standard input."""


class ReadingProcess:
    """One child, started when it is needed and again when it has ended. It reads one thing at a time, in turn."""

    def __init__(self, start: Start, *, stays: bool) -> None:
        """``stays``: whether the child waits for what is next to be read, or ends each time."""
        self._start = start
        self._stays = stays
        self._child: Child | None = None
        self._socket: socket.socket | None = None
        self._is_busy = False
        self._waiting: OrderedDict[str, deque[Event]] = OrderedDict()

    def run(self, function: Callable[[bytearray], T], data: bytes | bytearray, caller: str) -> T:
        """``function(data)`` for ``caller``; what it raises is raised. Raises ReadingError.

        ``function`` is one of a module, or a ``partial`` of one. It is called here, and holds up everything, where a
        child would load other modules than this process has: those of a version that was installed meanwhile.
        """
        self._take_turn(caller)
        if self._child is None and _code() != _CODE:
            self._pass_turn()
            return function(bytearray(data))
        stays = False
        try:
            with gevent.Timeout(SECONDS + len(data) / BYTES_PER_SECOND, TimeoutError()):
                answer = self._ask(function, data)
            stays = self._stays and not answer.ends
        except TimeoutError:
            raise ReadingError("takes too long to be read") from None
        except (OSError, EOFError) as error:
            raise EndedError("could not be read: the process that reads it was ended") from error
        finally:
            try:
                if not stays:
                    self.close()
            finally:
                self._pass_turn()
        if answer.kind is Kind.ERROR:
            raise answer.value
        value: T = answer.value
        return value

    def _ask(self, function: Callable[[bytearray], Any], data: bytes | bytearray) -> Frame:
        connection = self._socket or self._begin()
        send(connection, pickle.dumps(function))
        send(connection, data)
        members: list[Any] = []
        while True:
            frame = _unpickled(receive(connection))
            if frame.kind in (Kind.VALUE, Kind.ERROR):
                return frame
            members.extend(frame.value)
            give_way()  # the next frame is there before this one is unpickled
            if frame.kind is Kind.REST:
                return frame._replace(value=members)

    def _begin(self) -> socket.socket:
        self._socket, theirs = socket.socketpair()
        with theirs:
            # Isolated: no module of the folder that this process was started in.
            self._child = self._start([sys.executable, "-I", "-c", _PROGRAM, *filter(None, sys.path)], theirs)
        return self._socket

    def close(self) -> None:
        """Ends the child; what is read next starts another."""
        connection, child = self._socket, self._child
        self._socket = self._child = None
        if connection is not None:
            connection.close()
        if child is not None:
            child.kill()
            child.wait()

    def _take_turn(self, caller: str) -> None:
        if not self._is_busy:
            self._is_busy = True
            return
        turn = Event()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            turn.wait()
        except BaseException:
            if turn.is_set():
                self._pass_turn()
            else:
                self._waiting[caller].remove(turn)
            raise

    def _pass_turn(self) -> None:
        while self._waiting:
            caller, turns = self._waiting.popitem(last=False)
            if turns:
                turn = turns.popleft()
                if turns:
                    self._waiting[caller] = turns
                turn.set()
                return
        self._is_busy = False


def _unpickled(data: bytearray) -> Frame:
    """Without collections of garbage in between, of which there is none: they made it take up to ten times as long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        frame: Frame = pickle.loads(data)
    finally:
        if was_enabled:
            gc.enable()
    return frame
