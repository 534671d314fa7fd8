"""Starts a child with a tag, prints its pid and start time, and dies without any goodbye."""

from greenagent.runtime.patch import patch

patch()

import os  # noqa: E402
import sys  # noqa: E402

from greenagent.process.spawn import Spawner, SpawnRequest  # noqa: E402
from greenagent.runtime.agent_log import AgentLog  # noqa: E402

spawner = Spawner(AgentLog(None))
spawner.start()
child = spawner.spawn(SpawnRequest("sleep", ("600",), {"GREENAGENT_JOB": sys.argv[1]}))
print(child.pid, child.start_ticks, flush=True)
os.kill(os.getpid(), 9)
