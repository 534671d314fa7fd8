"""A process that fills a small disk, goes on logging, makes room and looks at its log. ``test_damage`` starts it."""

from greenagent.runtime.patch import patch

patch()

import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

from greenagent.logs.lines import Block  # noqa: E402
from greenagent.logs.read.query import LogQuery  # noqa: E402
from greenagent.logs.read.verify import verify_folder  # noqa: E402
from greenagent.logs.store import LogStore  # noqa: E402
from greenagent.logs.write.job_log import Routes  # noqa: E402
from greenagent.runtime.agent_log import AgentLog, LineOutput  # noqa: E402
from greenagent.values.message import Message  # noqa: E402


def main(disk: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (1 << 20))
    store = LogStore(disk / "logs", disk / "mid", AgentLog(LineOutput(2, "agent_log")))
    store.start()
    log = store.open_job("j", "", "", Routes(), "j")
    while not store.metrics.dropped:
        log.append([Block(1, "some line of a job\n" * 1000, 1000)])
        store.flush()
    ballast.unlink()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lost = store.metrics.dropped
        log.append([Message(5, "still here")])
        store.flush()
        if store.metrics.dropped == lost:
            break
        gevent.sleep(0.1)
    print("lost", store.metrics.dropped)
    gevent.sleep(0)
    log.append([Message(5, "after it")])
    store.flush()
    for record in store.query(LogQuery(limit=3)):
        print("note", record.level, record.data)
    store.stop()
    for report in verify_folder(store.folder):
        print("verify", "; ".join(report.problems) or "fine")


main(Path(sys.argv[1]))
