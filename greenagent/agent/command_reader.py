"""Makes values of what controllers send, whatever its size and shape, without holding up anything else."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import gevent

from greenagent.process.child import Child
from greenagent.process.spawn import Spawner, SpawnError, SpawnRequest
from greenagent.runtime.descriptors import close_descriptor
from greenagent.runtime.greenlets import Supervisor
from greenagent.runtime.reading_child import ReadingError
from greenagent.runtime.reading_process import EndedError, ReadingProcess
from greenagent.values.command import Command, decode_command, decode_data, load_json, read_early_id
from greenagent.values.errors import CommandError
from greenagent.values.json_shape import count_signs

T = TypeVar("T")

FEW_BYTES: Final = 256 * 1024
FEW_MEMBERS: Final = 10_000
"""What is no more than this is read at once, in 40 ms at the worst; everything else by another process."""
PAUSES: Final = (0.5, 2.0)
"""Seconds before the next try, where that process could not be started or was ended: the command is here only once."""
DATA: Final = "data of scripts"
"""These take their turn like one controller more."""
END_WAIT: Final = 2.0
"""Seconds for the end of that process once it was killed; after that nobody waits for it."""


class CommandReader:
    """Reads the commands of all controllers, and the data in them. The process for large ones lives as long as it reads
    one."""

    def __init__(self, spawner: Spawner, supervisor: Supervisor) -> None:
        self._spawner = spawner
        self._supervisor = supervisor
        self._process = ReadingProcess(self._start, stays=False)

    def read(self, body: bytes, controller: str) -> Command:
        """The command in ``body``. Raises CommandError, with the id if readable; a large one takes its time."""
        if _is_small(body):
            return decode_command(body)
        try:
            return self._run(decode_command, body, controller)
        except (ReadingError, SpawnError) as error:
            raise CommandError(f"the command {_predicate(error)}", read_early_id(body)) from error

    def read_data(self, text: str) -> Any:
        """The value of a JSON text that came inside a command: see ``jobs.commands.ReadJson``."""
        data = text.encode()
        if _is_small(data):
            return load_json(text)
        try:
            return self._run(decode_data, data, DATA)
        except (ReadingError, SpawnError) as error:
            raise CommandError(_predicate(error)) from error

    def _run(self, function: Callable[[bytearray], T], data: bytes, caller: str) -> T:
        for pause in PAUSES:
            try:
                return self._process.run(function, data, caller)
            except (EndedError, SpawnError):
                gevent.sleep(pause)
        return self._process.run(function, data, caller)

    def close(self) -> None:
        """Ends the process, also while it reads."""
        self._process.close()

    def _start(self, command: Sequence[str], connection: socket.socket) -> _Process:
        environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
        request = SpawnRequest(command[0], tuple(command[1:]), environment, stdin=connection.fileno())
        child = self._spawner.spawn(request)
        for descriptor in (child.stdout, child.stderr):  # it says nothing
            if descriptor is not None:
                close_descriptor(descriptor)
        return _Process(child, self._supervisor)


def _is_small(data: bytes) -> bool:
    return len(data) <= FEW_BYTES and count_signs(data) <= FEW_MEMBERS


def _predicate(error: ReadingError | SpawnError) -> str:
    return str(error) if isinstance(error, ReadingError) else f"could not be read: {error}"


class _Process:
    """A child of the agent as ``ReadingProcess`` takes it."""

    def __init__(self, child: Child, supervisor: Supervisor) -> None:
        self._child = child
        self._supervisor = supervisor

    @property
    def pid(self) -> int:
        return self._child.pid

    def kill(self) -> None:
        self._child.signal_group(signal.SIGKILL)

    def wait(self) -> None:
        if self._child.wait(END_WAIT) is not None:
            self._child.reap()
        else:
            self._supervisor.spawn("late end of the process that reads commands", self._child.reap)
