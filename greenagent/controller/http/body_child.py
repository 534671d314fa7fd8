"""The child that makes values of large bodies; ``body_worker`` starts it and says why there is one.

Both sides send frames over a socket: eight bytes with the length, then as many. A request is the pickled function, then
the body; an answer is a number of frames with a part of a list each, then one with the rest of it, another value, or an
error. Neither side is a stranger to the other: nothing that a peer has sent is unpickled.
"""

from __future__ import annotations

import os
import pickle
import resource
import socket
import sys
from collections.abc import Callable
from enum import Enum
from itertools import islice
from typing import Any, Final, NamedTuple

from greenagent.controller.http.body_values import BodyTooLargeError, value_of
from greenagent.runtime import procfs

MEMORY: Final = 768 * 1024 * 1024
"""Bytes of address space: a body of 64 MiB of any honest shape takes less."""
KEPT_MEMORY: Final = 256 * 1024 * 1024
"""Bytes in memory after which the child ends: what it has freed may stay with it."""
PART: Final = 500
"""Members of a list in one frame: unpickling them holds the other side for a millisecond or two."""
MAX_DIGITS: Final = 640
"""Digits of a whole number: reading one takes time with their square. No smaller limit can be set."""
NICE: Final = 5
"""So much the controller itself goes before it."""


class Kind(Enum):
    """What a frame of an answer holds."""

    PART = "members of a list; more frames follow"
    REST = "the last members of the list"
    VALUE = "the value"
    ERROR = "what was raised"


class Frame(NamedTuple):
    """A frame of an answer."""

    kind: Kind
    value: Any
    ends: bool = False
    """The child ends with this answer."""


def receive(connection: socket.socket) -> bytearray:
    """The next frame. Raises EOFError where the other side has gone."""
    return _receive(connection, int.from_bytes(_receive(connection, 8), "big"))


def _receive(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view[: 1 << 18])
        if not count:
            raise EOFError("the other side has gone")
        view = view[count:]
    return data


def send(connection: socket.socket, data: bytes | bytearray) -> None:
    """Raises OSError where the other side has gone."""
    connection.sendall(len(data).to_bytes(8, "big"))
    connection.sendall(data)


def main(descriptor: int) -> None:
    """Answers requests until the other side closes the socket."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(MAX_DIGITS)
    with socket.socket(fileno=descriptor) as connection:
        connection.setblocking(True)  # the other side, which made it, does not let its calls wait
        try:
            while _answer(connection):
                pass
        except (EOFError, OSError):
            pass  # the controller has ended, or has no use for this answer any more


def _answer(connection: socket.socket) -> bool:
    """One request; False when the child is to end."""
    make: Callable[[Any], Any] = pickle.loads(receive(connection))
    last = Frame(Kind.ERROR, BodyTooLargeError("the body takes too much memory to be read"))
    try:
        value = make(value_of(receive(connection)))
        last = Frame(Kind.VALUE, value)
        if isinstance(value, list):
            members = iter(value)
            while len(part := list(islice(members, PART))) == PART:
                send(connection, pickle.dumps(Frame(Kind.PART, part)))
            last = Frame(Kind.REST, part)
    except MemoryError:
        pass
    except (EOFError, OSError):
        raise
    except Exception as error:
        last = Frame(Kind.ERROR, error)
    # Not ru_maxrss, which begins with what the controller had when it started this process.
    ends = procfs.read_exact_rss(os.getpid()) > KEPT_MEMORY
    send(connection, pickle.dumps(last._replace(ends=ends)))
    return not ends
