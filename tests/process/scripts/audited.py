"""Starts and ends children under an audit hook; says what the hook saw and whether SIGCHLD is caught."""

from greenagent.runtime.patch import patch

patch()

import sys  # noqa: E402

FORBIDDEN = ("os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec", "subprocess.Popen")
seen: list[str] = []
sys.addaudithook(lambda event, arguments: seen.append(event) if event in FORBIDDEN else None)

import signal  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

from greenagent.process.child import sweep  # noqa: E402
from greenagent.process.pipes import PipeFeeder, PipeReader  # noqa: E402
from greenagent.process.spawn import Spawner, SpawnRequest  # noqa: E402
from greenagent.runtime.agent_log import AgentLog  # noqa: E402

signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as a careless parent leaves it
spawner = Spawner(AgentLog(None))
spawner.start()
codes: list[int | None] = []


def run(code: int) -> None:
    child = spawner.spawn(SpawnRequest("sh", ("-c", f"cat; exit {code}")))
    readers = [PipeReader(child.stdout), PipeReader(child.stderr)]
    PipeFeeder(child.stdin, b"data").run()
    assert [b"".join(reader.chunks()) for reader in readers] == [b"data", b""]
    child.wait()
    sweep(child)
    codes.append(child.reap().code)


gevent.joinall([gevent.spawn(run, code) for code in range(100)], raise_error=True)
caught = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("SigCgt"))
print(sorted(codes) == list(range(100)), seen, bool(int(caught.split()[1], 16) >> (signal.SIGCHLD - 1) & 1))
spawner.stop()
