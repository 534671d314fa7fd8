"""Runs out of descriptors or processes, says what a start answers then, and that it works again afterwards."""

from greenagent.runtime.patch import patch

patch()

import os  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402

from greenagent.process.spawn import Spawner, SpawnError, SpawnRequest  # noqa: E402
from greenagent.runtime.agent_log import AgentLog  # noqa: E402
from greenagent.runtime.descriptors import close_descriptor  # noqa: E402

spawner = Spawner(AgentLog(None))
spawner.start()
reasons: list[str] = []


def attempt() -> bool:
    """Starts a child, or keeps the reason why it could not be."""
    try:
        child = spawner.spawn(SpawnRequest("sh", ("-c", "exit 5")))
    except SpawnError as error:
        reasons.append(f"{error.reason} (temporary: {error.temporary})")
        return False
    if spawner.children.live() != [child] or child.reap().code != 5:
        sys.exit("the child is not the only one or did not end as it should")
    for descriptor in (child.stdin, child.stdout, child.stderr):
        close_descriptor(descriptor)
    return True


attempt()
if sys.argv[1] == "descriptors":
    limit = max(int(name) for name in os.listdir("/proc/self/fd")) + 12
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    hoard: list[int] = []
    while True:
        try:
            hoard.append(os.dup(0))
        except OSError:
            break
    while not attempt():  # one more descriptor at a time: the start fails at each of its steps in turn
        close_descriptor(hoard.pop())
else:
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)  # the limit does not bind root
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
    attempt()
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    if not attempt():
        sys.exit(f"no start after the limit was lifted: {reasons[-1]}")
print(set(reasons))
spawner.stop()
