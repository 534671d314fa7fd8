"""A statsd port for each job, for children that prefer a socket to printing.

Each job has a loopback port of its own, so what arrives there can only count for that job.
"""

from __future__ import annotations

import fcntl
import socket
import time
from collections.abc import Callable, Iterator

import gevent

from greenagent.runtime.greenlets import Supervisor

_MAX_DATAGRAM = 65_535
_BUFFER_SIZE = 1 << 20
_MAX_BUFFERED = 4096
"""Datagrams that the buffer holds at most: the kernel counts at least 768 bytes for each, in twice its size."""
_SLICE = 2048
"""Characters taken in one go: a datagram may hold ten thousand lines."""
_TURN = 0.002
"""Seconds after which others get their turn; what does not fit the socket's buffer meanwhile is lost."""


class StatsdListener:
    """One job's UDP port. ``environment`` is what the child needs to find it."""

    _resting = 0
    """Ports that have used up their turn."""

    def __init__(
        self,
        job: str,
        take: Callable[[str], None],
        supervisor: Supervisor,
        wanted_port: int = 0,
        descriptor: int | None = None,
    ) -> None:
        """``take`` gets the lines of datagrams; ``wanted_port`` 0 takes any. Raises OSError if none can be had.

        ``descriptor``: the open port that an earlier image of the agent has left (see ``detach``).
        """
        self._take = take
        self._rest: Iterator[str] = iter(())
        self._began = 0.0
        if descriptor is not None:
            self._socket = socket.socket(fileno=descriptor)
        else:
            self._socket = _bind(wanted_port)
        host, port = self._socket.getsockname()
        self.port = int(port)
        self.environment = {"STATSD_HOST": host, "STATSD_PORT": str(port)}
        self._reader = supervisor.spawn(f"statsd port of {job}", self._read)

    def detach(self) -> tuple[int, list[str]] | None:
        """Leaves the port open for the next image of the agent; None when it is closed.

        Returns its descriptor and the text that was read and not taken yet: taking it may block (a
        refused line goes into the job's log), while the agent hands over what it knows as soon as the
        job's greenlet gives way. So nothing in here does.
        """
        if self._socket.fileno() < 0:
            return None
        self._reader.kill(block=False)
        descriptor = fcntl.fcntl(self._socket.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
        self._socket.close()
        return descriptor, list(self._rest)

    def close(self) -> None:
        """Takes what has arrived and closes the port. Harmless when repeated."""
        if self._socket.fileno() < 0:
            return
        self._reader.kill()
        self._take_rest()
        self._socket.setblocking(False)
        left = 2 * _BUFFER_SIZE
        for _ in range(_MAX_BUFFERED):  # a grandchild that goes on sending must not keep us here
            try:
                data = self._socket.recv(_MAX_DATAGRAM)
            except OSError:
                break
            left -= len(data)
            self._rest = _lines_of(data)
            self._take_rest()
            if left <= 0:
                break
        self._socket.close()

    def _read(self) -> None:
        while True:
            data = self._socket.recv(_MAX_DATAGRAM)  # does not yield where something is there
            self._rest = _lines_of(data)  # kept before others get their turn: they may detach or close the port
            self._give_turn()
            self._take_rest()

    def _take_rest(self) -> None:
        for part in self._rest:
            self._take(part)
            self._give_turn()

    def _give_turn(self) -> None:
        """Lets others run after 2 ms: a port that is never empty would keep hub and interpreter for itself."""
        if time.monotonic() - self._began < _TURN:
            return
        StatsdListener._resting += 1
        try:
            gevent.sleep(_TURN * (2 * StatsdListener._resting - 1))  # all ports together get half of the time
        finally:
            StatsdListener._resting -= 1
        self._began = time.monotonic()


def _bind(port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_SIZE)
        found.bind(("127.0.0.1", port))
    except OSError:
        found.close()
        raise
    return found


def _lines_of(data: bytes) -> Iterator[str]:
    """A datagram's text in parts of whole lines."""
    text = data.decode("utf-8", "backslashreplace")
    start = 0
    while start < len(text):
        end = text.find("\n", start + _SLICE) + 1 or len(text)
        yield text[start:end]
        start = end
