"""A started spawner, and runs of small programs to their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gevent
import pytest

from greenagent.process.child import Child, end, sweep
from greenagent.process.orphans import OrphanReaper
from greenagent.process.pipes import PipeFeeder, PipeReader
from greenagent.process.spawn import Spawner, SpawnRequest
from greenagent.runtime.agent_log import AgentLog
from tests.support.children import INSTANCE, PATH, Ended


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    started = Spawner(AgentLog(None), PATH)
    started.start()
    yield started
    for child in started.children.live():
        end(child, 0)
        sweep(child)
        child.reap()
    started.stop()


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
        feeder = gevent.spawn(PipeFeeder(child.stdin, data).run)
        child.wait()
        sweep(child)
        gevent.joinall(outputs)
        feeder.kill()
        return Ended(child.reap(), outputs[0].value, outputs[1].value)

    return finish


@pytest.fixture
def said():
    return []


@pytest.fixture
def orphan_reaper(spawner, said):
    agent_log = AgentLog(None)
    agent_log.attach(lambda level, text: said.append((level, text)))
    return OrphanReaper(spawner.children, agent_log, INSTANCE)
