"""Reading and feeding the pipes of a child without ever blocking the hub."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent import socket

from greenagent.runtime.descriptors import close_descriptor, forget_descriptor

CHUNK = 128 * 1024
FIRST_CHUNK = 16 * 1024
"""Bytes: a buffer for more would be mapped and freed again for each stream that says little."""
PIPE_SIZE = 256 * 1024
_READABLE = 1


class PipeReader:
    """Reads one stream of a child in chunks, each after a wait, so that others get their turn.

    Owns the descriptor: it is closed at the end of ``chunks``, by ``close``, or when the reading
    greenlet is killed.
    """

    def __init__(self, descriptor: int, size: int = CHUNK) -> None:
        """``size``: bytes per chunk at most."""
        self._descriptor = descriptor
        self._size = size
        self._capacity = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ) if hasattr(fcntl, "F_GETPIPE_SZ") else 65536
        self._watcher: Any = gevent.get_hub().loop.io(descriptor, _READABLE)
        self._waiter: Any = None
        self._timer: Any = None
        self._deadline: float | None = None
        self._closed = False
        self._detached = False

    @property
    def is_closed(self) -> bool:
        """After the end of the stream, and after ``detach``."""
        return self._closed

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Calls ``callback`` on the hub, again and again, while there is something for ``first``."""
        self._watcher.start(callback)

    def first(self) -> bytes | None:
        """What has come already, before ``chunks`` gives the rest: ``callback`` is called no more then.

        Empty at the end of the stream, which is closed; None where nothing has come.
        """
        chunk = self._read(FIRST_CHUNK)
        if chunk is not None:
            self._watcher.stop()
        if chunk == b"":
            self.close()
        return chunk

    def chunks(self) -> Iterator[bytes]:
        """What arrives, until the end of the stream or the time given to ``stop_after``."""
        try:
            while True:
                if not self._wait():
                    if not self._detached:
                        yield from self._rest()
                    return
                chunk = self._read(self._size)
                if chunk is None:
                    continue
                if not chunk:
                    return
                yield chunk
        finally:
            self.close()

    def stop_after(self, seconds: float) -> None:
        """Reading ends ``seconds`` from now at the latest; what is in the pipe then is still read.

        For the time after the child's exit: a grandchild that keeps the pipe open must not keep the
        job (design, section 5 "Ending"). Of several calls the earliest end counts.
        """
        deadline = time.monotonic() + seconds
        if self._closed or (self._deadline is not None and self._deadline <= deadline):
            return
        self._deadline = deadline
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
        self._timer = gevent.get_hub().loop.timer(max(seconds, 0))
        self._timer.start(self._on_deadline)

    def detach(self) -> int | None:
        """Ends the reading, between two chunks, and leaves the descriptor open; None when it is closed already.

        For the replacement of the agent in place: what is in the pipe is read by the new one.
        """
        if self._closed:
            return None
        self._detached = True
        self.close()
        return self._descriptor

    def close(self) -> None:
        """Gives up the stream; a greenlet still reading it sees its end. Harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        self._watcher.stop()
        self._watcher.close()
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
        if not self._detached:
            forget_descriptor(self._descriptor)
            close_descriptor(self._descriptor)
        if self._waiter is not None:
            gevent.get_hub().loop.run_callback(self._wake, False)

    def _wait(self) -> bool:
        """True when there is something to read, False when reading must end."""
        if self._closed or (self._deadline is not None and time.monotonic() >= self._deadline):
            return False
        self._waiter = gevent.hub.Waiter()
        self._watcher.start(self._wake, True)
        try:
            return bool(self._waiter.get())
        finally:
            self._waiter = None
            if not self._closed:
                self._watcher.stop()

    def _wake(self, readable: bool) -> None:
        if self._waiter is not None:
            self._waiter.switch(readable)

    def _on_deadline(self) -> None:
        self._wake(False)

    def _read(self, size: int) -> bytes | None:
        try:
            chunk = os.read(self._descriptor, size)
        except BlockingIOError:
            return None
        if len(chunk) * 2 >= self._capacity and self._capacity < PIPE_SIZE:
            self._grow()
        return chunk

    def _grow(self) -> None:
        """A larger pipe for a busy stream only: the sum of all pipes is limited per user."""
        self._capacity = PIPE_SIZE
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except (OSError, AttributeError):
            pass  # the user's share is used up; the pipe works as it is

    def _rest(self) -> Iterator[bytes]:
        """What is in the pipe at this moment and no more, for somebody may still be writing."""
        left = 0
        if not self._closed:
            left = struct.unpack("i", fcntl.ioctl(self._descriptor, termios.FIONREAD, b"\0" * 4))[0]
        while left > 0 and not self._closed:
            chunk = self._read(min(left, self._size))
            if not chunk:
                return
            left -= len(chunk)
            yield chunk


class PipeFeeder:
    """Writes a child's input and closes it. A child that does not read to the end is no error."""

    def __init__(self, descriptor: int, data: bytes) -> None:
        self._descriptor = descriptor
        self._left = memoryview(data)
        self._was_waited_for = False
        self._closed = False

    @property
    def is_empty(self) -> bool:
        """No data is left to write: ``close`` is enough, and needs no greenlet."""
        return not self._left

    def run(self) -> None:
        """Blocks the greenlet as long as the child does not read; kill that greenlet when the job is over."""
        try:
            while self._left:
                try:
                    self._left = self._left[os.write(self._descriptor, self._left[:CHUNK]) :]
                except BlockingIOError:
                    self._was_waited_for = True
                    socket.wait_write(self._descriptor)
        except OSError:
            pass  # EPIPE: it has closed its stdin or ended
        finally:
            self.close()

    def detach(self) -> tuple[int, bytes] | None:
        """Leaves the descriptor open and tells what was not written; None when all was. Kill the greenlet after it."""
        if self._closed:
            return None
        self._closed = True
        return self._descriptor, bytes(self._left)

    def close(self) -> None:
        """Closes the input. Harmless when repeated."""
        if not self._closed:
            self._closed = True
            if self._was_waited_for:
                forget_descriptor(self._descriptor)
            close_descriptor(self._descriptor)
