"""A statsd port for each job, for children that prefer a socket to printing (issue 7).

Each job has a loopback port of its own, so what arrives there can only count for that job.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import gevent

from greenagent.runtime.greenlets import Supervisor

_LARGEST = 65_535
_BUFFER = 1 << 20
_TURN = 100


class Intake:
    """One job's UDP port. ``environment`` is what the child needs to find it."""

    def __init__(self, job: str, take: Callable[[str], None], supervisor: Supervisor, wanted_port: int = 0) -> None:
        """``take`` gets the text of each datagram; ``wanted_port`` 0 takes any. Raises OSError if none can be had."""
        self._take = take
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.bind(("127.0.0.1", wanted_port))
        except OSError:
            self._socket.close()
            raise
        host, port = self._socket.getsockname()
        self.port = int(port)
        self.environment = {"STATSD_HOST": host, "STATSD_PORT": str(port)}
        self._reader = supervisor.spawn(f"statsd intake of {job}", self._read)

    def close(self) -> None:
        """Takes what has arrived and closes the port. Harmless when repeated."""
        if self._socket.fileno() < 0:
            return
        self._reader.kill()
        self._socket.setblocking(False)
        for _ in range(_BUFFER):  # a grandchild that goes on sending must not keep us here
            try:
                data = self._socket.recv(_LARGEST)
            except OSError:
                break
            self._hand_over(data)
        self._socket.close()

    def _read(self) -> None:
        while True:
            for _ in range(_TURN):
                self._hand_over(self._socket.recv(_LARGEST))
            gevent.sleep(0)  # a socket that is never empty would keep the hub

    def _hand_over(self, data: bytes) -> None:
        self._take(data.decode("utf-8", "backslashreplace"))
