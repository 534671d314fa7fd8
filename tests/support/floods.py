"""Peers that send without end, in processes of their own: they go on while our hub is held up."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import gevent

STALL = 0.3
"""Seconds of processor time the hub may be late in a test; a few milliseconds are meant."""


@contextmanager
def flooding(port: int, head: bytes, piece: bytes) -> Iterator[None]:
    """A client that sends ``head`` and then ``piece`` for ever, and connects again whenever it is cut off."""
    with _process("client", str(port), head.hex(), piece.hex()):
        yield


@contextmanager
def endless_server(head: bytes, piece: bytes, ordinary: int = 0) -> Iterator[str]:
    """The URL of a server that answers every request with ``head`` and then ``piece`` for ever.

    ``ordinary``: so many requests of each connection are answered by "ok" before.
    """
    with _process("server", str(ordinary), head.hex(), piece.hex()) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"


@contextmanager
def longest_stall() -> Iterator[list[float]]:
    """By how many seconds the hub was late at the most, of its thread's processor time.

    The clock on the wall would count what other programs do on a busy machine; nothing that floods makes the hub sleep.
    """
    longest = [0.0]

    def watch() -> None:
        while True:
            began = time.thread_time()
            gevent.sleep(0.005)
            longest[0] = max(longest[0], time.thread_time() - began)

    watcher = gevent.spawn(watch)
    gevent.sleep(0)
    try:
        yield longest
        gevent.sleep(0.01)
    finally:
        watcher.kill()


@contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _send(connection: socket.socket, head: bytes, piece: bytes) -> None:
    many = piece * (1 + 262_144 // len(piece))
    connection.sendall(head)
    while True:
        connection.sendall(many)


def _drain(connection: socket.socket) -> None:
    try:
        while connection.recv(65536):
            pass
    except OSError:
        pass


def _be_client(port: int, head: bytes, piece: bytes) -> None:
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                threading.Thread(target=_drain, args=(connection,), daemon=True).start()
                _send(connection, head, piece)
        except OSError:
            time.sleep(0.01)


def _be_server(ordinary: int, head: bytes, piece: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as requests:
                for number in range(ordinary + 1):
                    size = 0
                    while (line := requests.readline()) != b"\r\n":
                        if not line:
                            return
                        if line.lower().startswith(b"content-length:"):
                            size = int(line[15:])
                    requests.read(size)
                    if number < ordinary:
                        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"ok"')
                _send(connection, head, piece)
        except OSError:
            pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


if __name__ == "__main__":
    {"client": _be_client, "server": _be_server}[sys.argv[1]](
        int(sys.argv[2]), bytes.fromhex(sys.argv[3]), bytes.fromhex(sys.argv[4])
    )
