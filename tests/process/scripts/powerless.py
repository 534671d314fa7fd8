"""Cannot signal its child any more (it gave up being root): says what ending it answers."""

from greenagent.runtime.patch import patch

patch()

import os  # noqa: E402

from greenagent.process import child as child_module  # noqa: E402
from greenagent.process.spawn import Spawner, SpawnRequest  # noqa: E402
from greenagent.runtime.agent_log import AgentLog  # noqa: E402

child_module.KILL_LIMIT = 0.2
spawner = Spawner(AgentLog(None))
spawner.start()
child = spawner.spawn(SpawnRequest("sleep", ("30",)))
os.setresuid(65534, 65534, 0)
answer = child.end(0.05)
print(answer == (child.pid,), [survivor.command for survivor in child.survivors])
os.setresuid(0, 0, 0)
child.end(0)
child.reap()
spawner.stop()
