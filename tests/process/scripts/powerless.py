"""Cannot signal its child any more (it gave up being root): says what ending it answers."""

from greenagent.runtime.patch import patch

patch()

import os  # noqa: E402

from greenagent.process import child as children  # noqa: E402
from greenagent.process.spawn import Spawner, SpawnRequest  # noqa: E402
from greenagent.runtime.agent_log import AgentLog  # noqa: E402

children.KILL_LIMIT = 0.2
spawner = Spawner(AgentLog(None))
spawner.start()
child = spawner.spawn(SpawnRequest("sleep", ("30",)))
os.setresuid(65534, 65534, 0)
survivors = children.end(child, 0.05)
print([survivor.pid for survivor in survivors] == [child.pid], [survivor.command for survivor in survivors])
os.setresuid(0, 0, 0)
children.end(child, 0)
child.reap()
spawner.stop()
