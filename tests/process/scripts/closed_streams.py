"""Runs with its own standard streams closed, so that pipes get their numbers; writes what it saw to a file."""

from greenagent.runtime.patch import patch

patch()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from greenagent.process.pipes import PipeFeeder, PipeReader  # noqa: E402
from greenagent.process.spawn import Spawner, SpawnRequest  # noqa: E402
from greenagent.runtime.agent_log import AgentLog  # noqa: E402
from greenagent.runtime.descriptors import close_descriptor  # noqa: E402

spawner = Spawner(AgentLog(None))
spawner.start()
for descriptor in (0, 1, 2):  # only now: the event loop would take these numbers
    close_descriptor(descriptor)
child = spawner.spawn(SpawnRequest("sh", ("-c", "cat; echo err >&2; ls /proc/self/fd")))
free = min(child.stdin, child.stdout, child.stderr) > 2  # else our own diagnostics would be the child's input
readers = [PipeReader(child.stdout), PipeReader(child.stderr)]
PipeFeeder(child.stdin, b"in\n").run()
outputs = [b"".join(reader.chunks()) for reader in readers]
Path(sys.argv[1]).write_text(repr((outputs, child.reap().code, free)))
spawner.stop()
