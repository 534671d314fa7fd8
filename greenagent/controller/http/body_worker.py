"""Makes values of large bodies in another process."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from greenagent.controller.http.body_values import BodyTooLargeError, value_of
from greenagent.runtime.reading_child import ReadingError
from greenagent.runtime.reading_process import ReadingProcess

T = TypeVar("T")


class BodyWorker:
    """One child for all bodies: one body at a time, addresses in turn."""

    def __init__(self) -> None:
        self.process = ReadingProcess(_start, stays=True)

    def run(self, make: Callable[[Any], T], data: bytearray, address: str) -> T:
        """``make`` of the JSON value of ``data``, which came from ``address``; what it raises is raised.

        ``make`` is a function of a module, or a ``partial`` of one. Raises BodyTooLargeError and NotJsonError.
        """
        try:
            return self.process.run(partial(_read, make), data, address)
        except ReadingError as error:
            raise BodyTooLargeError(f"the body {error}") from error

    def close(self) -> None:
        """Ends the child; the next body starts another."""
        self.process.close()


def _read(make: Callable[[Any], T], data: bytearray) -> T:
    return make(value_of(data))


def _start(command: Sequence[str], connection: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=connection.fileno(), start_new_session=True)
