"""``greenagent-logs --follow``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from greenagent.logs.lines import Block
from greenagent.logs.runs import RunRecord
from greenagent.logs.write.job_log import Routes
from greenagent.logs.write.retention import StoreLimits
from greenagent.values.message import Message
from tests.support.log_program import COMMAND, ENVIRONMENT
from tests.support.stores import Stores
from tests.support.waiting import wait_until

HELD = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from greenagent.cli.logs import follow
from greenagent.cli.logs.__main__ import main
folder = Path(sys.argv.pop(1))
def pause(seconds):
    while (folder / "hold").exists():
        (folder / "held").touch()
        time.sleep(0.005)
    time.sleep(seconds)
follow.time = SimpleNamespace(sleep=pause)
sys.exit(main(sys.argv[1:]))
"""
"""The program, in which a pause between two looks lasts while there is a file "hold"; "held" says that it has begun."""


def test_follow_shows_the_last_lines_and_goes_on_across_rotations(stores: Stores) -> None:
    store = stores.open()
    log = store.open_job("j", "", "", Routes(), "")
    log.append([Block(1, "".join(f"old{number}\n" for number in range(30)), 30)])
    store.flush()
    process = subprocess.Popen(
        [*COMMAND, "--dir", str(stores.folder.path), "--follow", "--json", "--limit", "3"],
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    output = b""

    def seen(count: int) -> list[str]:
        nonlocal output
        output += process.stdout.read() or b""  # type: ignore[union-attr]
        texts = [json.loads(line)["data"] for line in output.splitlines(keepends=True) if line.endswith(b"\n")]
        return texts if len(texts) >= count else []

    try:
        assert wait_until(lambda: seen(3), what="the last lines") == ["old27", "old28", "old29"]
        for number in range(6):
            log.append([Message(1, f"new{number}")])
            store.flush()
            if number % 2:
                store.intake.call(store.writer.rotate)
        expected = ["old27", "old28", "old29", *(f"new{number}" for number in range(6))]
        assert wait_until(lambda: seen(9), what="the new lines") == expected
        # What was closed while it was just read is merged by the next look of the writer.
        left = [path.with_name(path.name + "-wal") for path in stores.folder.archives()]
        wait_until(lambda: not any(path.exists() for path in left), what="the logs of the archives to be merged")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: process.poll() is not None, what="the end")
        assert process.returncode == 130
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_follow_passes_over_a_damaged_file(folder: Path) -> None:
    (folder / "0.db").write_text("hello\n")
    process = subprocess.Popen(
        [*COMMAND, "--dir", str(folder), "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert [process.stdout.readline()[24:35] for _ in range(2)] == ["first stdou"] * 2
        assert "0.db cannot be read" in process.stderr.readline()
    finally:
        process.kill()
        process.communicate()


def test_follow_says_what_it_could_not_show(stores: Stores, tmp_path: Path) -> None:
    store = stores.open(limits=StoreLimits(max_dbs=1))
    log = store.open_job("j", "", "", Routes(), "")
    log.append([Message(1, "seen")])
    store.flush()
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, str(tmp_path), "--dir", str(stores.folder.path), "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    output = b""

    def shown(text: bytes) -> bool:
        nonlocal output
        output += process.stdout.read() or b""  # type: ignore[union-attr]
        return text in output

    try:
        wait_until(lambda: shown(b"seen"), what="the first line")
        (tmp_path / "hold").touch()
        wait_until((tmp_path / "held").exists, what="a pause")
        for number in range(5):
            log.append([Message(1, f"gone{number}"), Message(1, "gone")])
            store.intake.call(store.writer.rotate)
        log.append([Message(1, "the last")])
        store.flush()
        (tmp_path / "hold").unlink()
        wait_until(lambda: shown(b"the last"), what="the last line")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert said.decode() == "greenagent-logs: up to 8 lines (of all jobs) were removed before they could be shown\n"


def test_follow_of_one_job_says_how_its_runs_end(stores: Stores) -> None:
    """Who followed a job waited for lines of one that had ended long ago."""
    store = stores.open()
    log = store.open_job("j", "", "", Routes(), "")
    run = RunRecord(1_000_000, "j", 1, "main", "", "sh", "sh -c x", 1.0, 1.0, 1.5, 3, None, "ERROR", "exit code 3")
    store.put_run(run)
    store.put_run(run._replace(number=9, jobid="other"))
    log.append([Message(1, "first")])
    store.flush()
    process = subprocess.Popen(
        [*COMMAND, "--dir", str(stores.folder.path), "--follow", "--job", "j", "--no-prefix"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    output = b""

    def shows(text: str) -> bool:
        nonlocal output
        output += process.stdout.read() or b""  # type: ignore[union-attr]
        return output.decode() == text

    try:
        said = "first\ngreenagent-logs: job j ended 1970-01-01 00:00:01 after 0.5s, exit 3 (ERROR)\n"
        wait_until(lambda: shows(said), what="its end")
        again = run._replace(number=2_000_000, run=2, started=2.0)
        store.put_run(again._replace(ended=None, exit_code=None, state=None, reason=""))
        store.intake.call(store.writer.rotate)
        log.append([Message(1, "second")])
        store.flush()
        store.put_run(again._replace(ended=4.0, exit_code=None, signal="SIGKILL", state="KILLED"))
        said += "second\ngreenagent-logs: run 2 of job j ended 1970-01-01 00:00:04 after 2.0s, exit SIGKILL (KILLED)\n"
        wait_until(lambda: shows(said), what="the end of the next run")
    finally:
        process.kill()
        process.communicate()
