"""A process that loses lines on a full disk and stops its store before there is room. ``test_lost_lines`` starts it."""

from greenagent.runtime.patch import patch

patch()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from greenagent.logs.lines import Block  # noqa: E402
from greenagent.logs.read.query import LogQuery  # noqa: E402
from greenagent.logs.store import LogStore  # noqa: E402
from greenagent.logs.write.job_log import Routes  # noqa: E402
from greenagent.runtime.agent_log import AgentLog, LineOutput  # noqa: E402

ids = Path(sys.argv[2])
"""Not on the small disk: a store needs to write its message id file to start at all."""


def start(disk: Path) -> LogStore:
    store = LogStore(disk / "logs", ids, AgentLog(LineOutput(2, "agent_log")))
    store.start()
    return store


def main(disk: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (8 << 20))
    store = start(disk)
    printed = {"chatty": 0, "quiet": 0, "new": 0}

    def log(job: str, lines: int) -> None:
        store.open_job(job, "dom", "nam", Routes(), "").append([Block(1, "some line of a job\n" * lines, lines)])
        store.flush()
        printed[job] += lines

    log("quiet", 10)
    while not store.metrics.dropped:
        log("chatty", 1000)
    with (disk / "filling").open("wb", buffering=0) as filling:  # not even a note finds room
        try:
            while True:
                filling.write(b"x" * 512)
        except OSError:
            pass
    lost = store.metrics.dropped
    while store.metrics.dropped == lost:  # the write-ahead log may have some left
        store.intake.call(store.writer.try_now)
        log("quiet", 1)
    print("counted", store.metrics.dropped)
    store.stop()
    ballast.unlink()
    (disk / "filling").unlink()
    store = start(disk)
    found = store.query(LogQuery(limit=0))
    print("missing", sum(printed.values()) - sum(record.level == 1 for record in found))
    print("noted", counted_in(found))
    log("new", 1)
    print("new lines", len(store.query(LogQuery(jobid="new", limit=0))))
    store.stop()


def counted_in(records: list) -> int:  # type: ignore[type-arg]
    notes = [record.data for record in records if record.level == 7]
    return sum(int(text.split()[0]) for text in notes if "lines of this job were lost" in text)


main(Path(sys.argv[1]))
