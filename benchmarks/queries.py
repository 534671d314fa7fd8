"""How long questions to ten million lines take, in as many files as they need, while a chatty job writes.

``python benchmarks/queries.py [--rows 10000000] [--dir DIR] [--index]``. A small job of 100 lines is
asked for by its id in the middle of the oldest file, and others beside it. ``--index`` adds the index
on jobid that the store does without, to show what it would bring and cost.

Then, while nobody writes, ``greenagent-logs`` with --grep, --jobs, --stats and all lines of a chatty job, each beside
sqlite alone, which counts or looks for the same in the same files, or reads and prints the same lines in a plain loop.
"""

from __future__ import annotations

from greenagent.runtime.patch import patch

patch()

import argparse  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import sqlite3  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from contextlib import closing  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

from greenagent.logs.folder import file_size  # noqa: E402
from greenagent.logs.lines import Block  # noqa: E402
from greenagent.logs.read.query import LogQuery  # noqa: E402
from greenagent.logs.store import LogStore  # noqa: E402
from greenagent.logs.write.job_log import Routes  # noqa: E402
from greenagent.runtime.agent_log import AgentLog, LineOutput  # noqa: E402
from greenagent.values.levels import parse_levels  # noqa: E402

BLOCK = Block(1, ("x" * 79 + "\n") * 1600, 1600)


def fill(store: LogStore, rows: int) -> None:
    """Twenty chatty jobs by turns, and three small ones that print line by line among them."""
    chatty = [store.open_job(f"2f0b0c4c-0000-4000-8000-{n:012}", "web", "crawl", Routes(), "") for n in range(20)]
    small = {0.02: "small-old", 0.5: "small-middle", 0.98: "small-new"}
    written = 0
    while written < rows:
        for share in [share for share in small if written >= share * rows]:
            log = store.open_job(small.pop(share), "db", "dump", Routes(), "")
            for number in range(100):
                log.append([Block(7, f"line {number}\n", 1)])
                chatty[number % 20].append([BLOCK])
                written += 1601
        chatty[written // 1600 % 20].append([BLOCK])
        written += 1600
    store.flush()


CHATTY = "2f0b0c4c-0000-4000-8000-000000000003"
PROGRAM = {
    "--grep, no hit": (
        ["--grep", "zebra [0-9]+ crossing$"],
        "SELECT count(*) FROM logs WHERE instr(data, ' crossing') > 0",
    ),
    "--jobs": (["--jobs"], "SELECT jobid, count(*), min(epoch), max(epoch) FROM logs GROUP BY jobid"),
    "--stats": (["--stats"], "SELECT epoch / 60, level, count(*) FROM logs GROUP BY 1, 2"),
    "--job of a chatty job": (
        ["--job", CHATTY],
        f"SELECT epoch, level, data FROM logs WHERE jobid = '{CHATTY}' ORDER BY seq",
    ),
}
"""What is asked of greenagent-logs, and of sqlite alone."""


def programs(folder: Path, files: list[Path]) -> None:
    """Seconds of the program and of sqlite alone, by turns, medians of three."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with open(os.devnull, "w") as nowhere:

        def program(words: list[str]) -> None:
            command = [sys.executable, "-m", "greenagent.cli.logs", "--dir", str(folder), *words]
            subprocess.run(command, env=environment, stdout=nowhere, stderr=nowhere, check=True)

        def alone(statement: str) -> int:
            lines = 0
            for path in files:
                with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
                    for row in connection.execute(statement):
                        nowhere.write(f"{row}\n")
                        lines += 1
            return lines

        for name, (words, statement) in PROGRAM.items():
            ours, theirs = [], []
            for _ in range(3):
                ours.append(seconds(lambda words=words: program(words)))  # type: ignore[misc]
                theirs.append(seconds(lambda statement=statement: alone(statement)))  # type: ignore[misc]
            took, reference = statistics.median(ours), statistics.median(theirs)
            print(f"greenagent-logs {name:25} {took:6.2f} s  sqlite alone {reference:6.2f} s", end="")
            print(f"  {alone(statement) / took:,.0f} lines/s" if CHATTY in words else "")


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--index", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="queries-", dir=options.dir))
    store = LogStore(folder / "logs", folder / "mid", AgentLog(LineOutput(2, "agent_log")))
    try:
        store.start()
        began = time.perf_counter()
        fill(store, options.rows)
        print(f"filled {options.rows} rows in {time.perf_counter() - began:.0f} s")
        if options.index:
            for path in store.folder.archives():
                before = file_size(path)
                with closing(sqlite3.connect(path)) as connection:
                    connection.execute("CREATE INDEX logs_jobid ON logs (jobid)")
                if path == store.folder.archives()[0]:
                    print(f"the index makes a file {file_size(path) / before:.2f} times as large")
        files = store.folder.databases()
        print(f"{len(files)} files, {sum(map(file_size, files)) / 1e6:.0f} MB")
        log = store.open_job("writing", "", "", Routes(), "")

        def write() -> None:
            while True:
                log.append([BLOCK])
                gevent.sleep(0)

        writer = gevent.spawn(write)
        questions = {
            "a small job, oldest file": LogQuery(jobid="small-old"),
            "a small job, middle": LogQuery(jobid="small-middle"),
            "a small job, newest file": LogQuery(jobid="small-new"),
            "a job that is not there": LogQuery(jobid="nobody"),
            "newest 1000 lines": LogQuery(),
            "newest 1000 of a chatty job": LogQuery(jobid=CHATTY),
            "level 7, newest 50": LogQuery(levels=parse_levels("7"), limit=50),
        }
        for name, query in questions.items():
            times = []
            for _ in range(15 if query.jobid else 3):
                began = time.perf_counter()
                found = store.query(query)
                times.append((time.perf_counter() - began) * 1000)
            print(
                f"{name:30} {len(found):5} lines  median {statistics.median(times):8.1f} ms  max {max(times):8.1f} ms"
            )
        writer.kill()
        store.flush()
        programs(store.folder.path.absolute(), [path.absolute() for path in store.folder.databases()])
    finally:
        store.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
