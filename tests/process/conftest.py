"""A started spawner, and runs of small programs to their end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gevent
import pytest

from greenagent.process.child import Child
from greenagent.process.descendants import Sweeper
from greenagent.process.exit_status import ExitStatus
from greenagent.process.pipes import PipeReader, feed
from greenagent.process.spawn import Spawner, SpawnRequest
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.native import close_descriptor

PATH = "/usr/local/bin:/usr/bin:/bin"
INSTANCE = "b7e1"
"""The agent in the tags of the runs."""


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    started = Spawner(AgentLog(None), PATH)
    started.start()
    yield started
    for child in started.registry.live():
        child.end(0)
        child.sweep()
        child.reap()
    started.stop()


@dataclass
class Ended:
    """What a program did."""

    status: ExitStatus
    stdout: bytes
    stderr: bytes


@pytest.fixture
def start(spawner: Spawner) -> Callable[..., Child]:
    """Starts ``executable arguments...``; ``tag``, ``env`` and ``directory`` by keyword."""

    def start(
        executable: str,
        *arguments: str,
        tag: str | None = None,
        env: dict[str, str] | None = None,
        directory: str | None = None,
    ) -> Child:
        environment = {"PATH": PATH} if env is None else dict(env)
        if tag is not None:
            environment["GREENAGENT_JOB"] = tag
        return spawner.spawn(SpawnRequest(executable, arguments, environment, directory))

    return start


@pytest.fixture
def finish() -> Callable[..., Ended]:
    """Feeds a child, reads both its streams to their end, waits, sweeps and reaps."""

    def finish(child: Child, data: bytes = b"") -> Ended:
        readers = [PipeReader(child.stdout), PipeReader(child.stderr)]
        outputs = [gevent.spawn(lambda reader=reader: b"".join(reader.chunks())) for reader in readers]
        feeder = gevent.spawn(feed, child.stdin, data)
        child.wait()
        child.sweep()
        gevent.joinall(outputs)
        feeder.kill()
        return Ended(child.reap(), outputs[0].value, outputs[1].value)

    return finish


def close_pipes(child: Child) -> None:
    for descriptor in (child.stdin, child.stdout, child.stderr):
        close_descriptor(descriptor)


def read_some(child: Child, wanted: bytes = b"\n") -> bytes:
    """What the child prints until ``wanted`` was in it; the pipe stays open."""
    reader = PipeReader(os.dup(child.stdout))
    data = b""
    with gevent.Timeout(10):
        for chunk in reader.chunks():
            data += chunk
            if wanted in data:
                break
    reader.close()
    return data


@pytest.fixture
def said():
    return []


@pytest.fixture
def sweeper(spawner, said):
    agent_log = AgentLog(None)
    agent_log.attach(lambda level, text: said.append((level, text)))
    return Sweeper(spawner.registry, agent_log, INSTANCE)
