"""The child that reads what is large; ``reading_process`` starts it and says why there is one.

Both sides send frames over a socket, which is the child's standard input: eight bytes with the length, then as many. A
request is the pickled function, then the bytes it is called with; an answer is a number of frames with a part of a list
each, then one with the rest of it, another value, or an error. Neither side is a stranger to the other: nothing that a
peer has sent is unpickled.

Little is imported here: it begins anew each time it is needed.
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
from pathlib import Path
from typing import Any, Final, NamedTuple

from greenagent.values.errors import GreenagentError

MEMORY: Final = 768 * 1024 * 1024
"""Bytes of address space: 64 MiB of any honest shape take less."""
KEPT_MEMORY: Final = 256 * 1024 * 1024
"""Bytes in memory after which the child ends: what it has freed may stay with it."""
PART: Final = 500
"""Members of a list in one frame: unpickling them holds the other side for a millisecond or two."""
MAX_DIGITS: Final = 640
"""Digits of a whole number: reading one takes time with their square. No smaller limit can be set."""
NICE: Final = 5
"""So much the program that it reads for goes before it."""
OOM_SCORE: Final = 500
"""Where memory is short, the system ends this process and not the program that it reads for."""


class ReadingError(GreenagentError):
    """What was to be read could not be; the text follows on a noun, as in "the body takes too long to be read"."""


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


def main() -> None:
    """Answers requests until the other side closes the socket."""
    os.nice(NICE)
    _die_first()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(MAX_DIGITS)
    with socket.socket(fileno=0) as connection:
        connection.setblocking(True)  # the other side, which made it, does not let its calls wait
        try:
            while _answer(connection):
                pass
        except (EOFError, OSError):
            pass  # the other side has ended, or has no use for this answer any more


def _die_first() -> None:
    score = Path("/proc/self/oom_score_adj")
    try:
        score.write_text(str(max(OOM_SCORE, int(score.read_text()))))
    except (OSError, ValueError):
        pass  # a system without it, or that forbids it


def _answer(connection: socket.socket) -> bool:
    """One request; False when the child is to end."""
    function: Callable[[bytearray], Any] = pickle.loads(receive(connection))
    last = Frame(Kind.ERROR, ReadingError("takes too much memory to be read"))
    try:
        value = function(receive(connection))
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
    ends = _resident() > KEPT_MEMORY
    send(connection, pickle.dumps(last._replace(ends=ends)))
    return not ends


def _resident() -> int:
    """Bytes in memory: not ru_maxrss, which begins with what the starting process had."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
