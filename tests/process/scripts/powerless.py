"""Cannot signal its children any more (it gave up being root): what ending, sweeping and reaping them says."""

from greenagent.runtime.patch import patch

patch()

import os  # noqa: E402
import signal  # noqa: E402

from greenagent.process import child as children  # noqa: E402
from greenagent.process.orphans import OrphanReaper  # noqa: E402
from greenagent.process.spawn import Spawner, SpawnRequest  # noqa: E402
from greenagent.runtime.agent_log import AgentLog  # noqa: E402

children.KILL_LIMIT = 0.2
spawner = Spawner(AgentLog(None))
spawner.start()
child = spawner.spawn(SpawnRequest("sleep", ("30",)))
parent = spawner.spawn(SpawnRequest("sh", ("-c", "sleep 30 & exit 0")))
parent.wait()
os.setresuid(65534, 65534, 0)
try:
    print(child.signal(signal.SIGTERM))
except PermissionError:
    print("not permitted")
survivors = children.end(child, 0.05)
print([survivor.pid for survivor in survivors] == [child.pid], [survivor[1:] for survivor in survivors])
ended, left = children.sweep(parent, 0.05)
print(ended, [survivor[1:] for survivor in left])
os.setresuid(0, 0, 0)
children.end(child, 0)
child.reap()
parent.reap()
os.setresuid(65534, 65534, 0)
[orphan] = spawner.children.reaper.orphans()
said = AgentLog(None)
said.attach(lambda level, text: print(text.replace(str(orphan.pid), "PID")))
reaper = OrphanReaper(spawner.children, said, "instance")
for _ in range(3):
    reaper.check()
os.setresuid(0, 0, 0)
reaper.end_all()
spawner.stop()
