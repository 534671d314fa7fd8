"""A process on a small disk that is full again before its notes of lost lines are written. For ``test_lost_lines``."""

from greenagent.runtime.patch import patch

patch()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

from greenagent.logs.lines import Block  # noqa: E402
from greenagent.logs.read.query import LogQuery  # noqa: E402
from greenagent.logs.store import LogStore  # noqa: E402
from greenagent.logs.write.job_log import Routes  # noqa: E402
from greenagent.runtime.agent_log import AgentLog, LineOutput  # noqa: E402
from greenagent.runtime.native import native_sleep  # noqa: E402


def fill(disk: Path) -> None:
    with (disk / "filling").open("wb", buffering=0) as filling:
        try:
            while True:
                filling.write(b"x" * 512)
        except OSError:
            pass


def main(disk: Path, ids: Path) -> None:
    store = LogStore(disk / "logs", ids, AgentLog(LineOutput(2, "agent_log")))
    store.start()
    jobs = {name: store.open_job(name, "dom", "nam", Routes(), "") for name in ("chatty", "quiet")}
    printed = dict.fromkeys(jobs, 0)

    def log(name: str) -> None:
        jobs[name].append([Block(1, "some line of a job\n" * 2000, 2000)])
        printed[name] += 2000

    fill(disk)
    for name in jobs:
        log(name)
    store.flush()
    gevent.sleep(0)
    assert not store.is_writable

    def recover_for_a_moment() -> None:
        (disk / "filling").unlink()
        store.writer.try_now()
        store.writer._try_again()
        fill(disk)
        native_sleep(0.5)  # meanwhile the notes come into the queue, behind lines of one job

    store.intake.soon(recover_for_a_moment)
    log("chatty")
    store.intake.soon(lambda: None)
    gevent.sleep(0.2)
    store.flush()
    (disk / "filling").unlink()
    store.intake.call(store.writer.try_now)
    store.tick()
    store.flush()
    while not store.is_writable:
        gevent.sleep(0.01)
    store.flush()
    found = store.query(LogQuery(limit=0))
    for name, job in jobs.items():
        own = [record for record in found if record.jobid == name]
        told = sum(int(record.data.split()[0]) for record in own if "lines of this job were lost" in record.data)
        print(name, printed[name] - sum(record.level == 1 for record in own), told, job.dropped)
    store.stop()


main(Path(sys.argv[1]), Path(sys.argv[2]))
