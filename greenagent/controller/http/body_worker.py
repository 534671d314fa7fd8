"""Makes values of large bodies in a process of its own.

In a native thread they would hold the interpreter, and with it the hub, as long as one call into C takes: seconds for
sixty megabytes of escapes. A child has an interpreter and memory of its own, and can be ended.
"""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

import gevent
from gevent.event import Event

from greenagent.controller.http.body_child import Frame, Kind, receive, send
from greenagent.controller.http.body_values import BodyTooLargeError
from greenagent.runtime.greenlets import give_way

T = TypeVar("T")

SECONDS: Final = 5.0
BYTES_PER_SECOND: Final = 2 * 1024 * 1024
"""A body may take so many seconds, and one more for so many bytes: ten times what one of an honest shape takes."""
_PROGRAM: Final = (
    "import sys; sys.path[:] = sys.argv[2:]; from greenagent.controller.http.body_child import main;"
    " main(int(sys.argv[1]))"
)


class BodyWorker:
    """One child, started when it is needed and again when it has ended. One body at a time, addresses in turn."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._is_busy = False
        self._waiting: OrderedDict[str, deque[Event]] = OrderedDict()

    def run(self, make: Callable[[Any], T], data: bytearray, address: str) -> T:
        """``make`` of the JSON value of ``data``, which came from ``address``; what it raises is raised.

        ``make`` is a function of a module, or a ``partial`` of one. Raises BodyTooLargeError and
        NotJsonError.
        """
        self._take_turn(address)
        is_answered = False
        try:
            with gevent.Timeout(SECONDS + len(data) / BYTES_PER_SECOND, TimeoutError()):
                answer = self._ask(make, data)
            is_answered = True
        except TimeoutError:
            raise BodyTooLargeError("the body takes too long to be read") from None
        except (OSError, EOFError) as error:
            raise BodyTooLargeError("the body could not be read: the process that reads it was ended") from error
        finally:
            if not is_answered:
                self.close()
            self._pass_turn()
        if answer.ends:
            self.close()
        if answer.kind is Kind.ERROR:
            raise answer.value
        value: T = answer.value
        return value

    def _ask(self, make: Callable[[Any], Any], data: bytearray) -> Frame:
        connection = self._socket or self._begin()
        send(connection, pickle.dumps(make))
        send(connection, data)
        members: list[Any] = []
        while True:
            frame: Frame = pickle.loads(receive(connection))
            if frame.kind in (Kind.VALUE, Kind.ERROR):
                return frame
            members.extend(frame.value)
            give_way()  # the next frame is there before this one is unpickled
            if frame.kind is Kind.REST:
                return frame._replace(value=members)

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            # Isolated: no module of the folder that this process was started in.
            command = [sys.executable, "-I", "-c", _PROGRAM, str(theirs.fileno()), *filter(None, sys.path)]
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
        self._socket = ours
        return ours

    def close(self) -> None:
        """Ends the child; the next body starts another."""
        if self._socket is not None:
            self._socket.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self._child = self._socket = None

    def _take_turn(self, address: str) -> None:
        if not self._is_busy:
            self._is_busy = True
            return
        turn = Event()
        self._waiting.setdefault(address, deque()).append(turn)
        try:
            turn.wait()
        except BaseException:
            if turn.is_set():
                self._pass_turn()
            else:
                self._waiting[address].remove(turn)
            raise

    def _pass_turn(self) -> None:
        while self._waiting:
            address, turns = self._waiting.popitem(last=False)
            if turns:
                turn = turns.popleft()
                if turns:
                    self._waiting[address] = turns
                turn.set()
                return
        self._is_busy = False
