"""A relay between an agent and a controller, on loopback, that forgets connections as a firewall does."""

from __future__ import annotations

import socket

import gevent
from gevent.server import StreamServer


class Relay:
    """Passes bytes on; after ``forget`` what stands open stays open, and nothing passes over it any more."""

    def __init__(self, port: int) -> None:
        """``port``: where the controller listens."""
        self._target = port
        self._forgotten: set[int] = set()
        self._open: dict[int, tuple[socket.socket, socket.socket]] = {}
        self.opened = 0
        """Connections that were opened through it, in all."""
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def forget(self) -> None:
        """Nobody is told: no connection is closed or reset."""
        self._forgotten |= set(self._open)

    def stop(self) -> None:
        self._server.stop(timeout=0)
        for pair in self._open.values():
            for end in pair:
                end.close()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serve(self, client: socket.socket, _: object) -> None:
        number = self.opened = self.opened + 1
        server = socket.create_connection(("127.0.0.1", self._target))
        self._open[number] = client, server
        gevent.joinall(
            [gevent.spawn(self._pass, number, client, server), gevent.spawn(self._pass, number, server, client)]
        )

    def _pass(self, number: int, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if number not in self._forgotten:
                    target.sendall(data)
            if number not in self._forgotten:
                target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one of the two has had enough
