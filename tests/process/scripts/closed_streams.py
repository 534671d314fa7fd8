"""Runs with its own standard streams closed, so that pipes get their numbers; writes what it saw to a file."""

from greenagent.runtime.patch import patch

patch()

import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

for descriptor in (0, 1, 2):
    os.close(descriptor)

from greenagent.process.pipes import PipeReader, feed  # noqa: E402
from greenagent.process.spawn import Spawner, SpawnRequest  # noqa: E402
from greenagent.runtime.voice import Voice  # noqa: E402

spawner = Spawner(Voice(None))
spawner.start()
child = spawner.spawn(SpawnRequest("sh", ("-c", "cat; echo err >&2; ls /proc/self/fd")))
readers = [PipeReader(child.stdout), PipeReader(child.stderr)]
feed(child.stdin, b"in\n")
outputs = [b"".join(reader.chunks()) for reader in readers]
Path(sys.argv[1]).write_text(repr((outputs, child.reap().code)))
spawner.stop()
