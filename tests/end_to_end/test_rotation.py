"""Rotation in the running agent: nothing lost or out of order, in the databases or at any controller."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from tests.support.agents import StartAgent, configuration
from tests.support.commands import execute, shell
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

MEGABYTES = int(os.environ.get("GREENAGENT_TEST_MEGABYTES", "30"))
LINE = "x" * 80


def databases(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted((path for path in folder.glob("*.db") if path.stem.isdigit()), key=lambda path: int(path.stem))


def largest(folder: Path) -> int:
    """The size of the largest database now, its write-ahead log included."""
    sizes = [0]
    for path in databases(folder):
        log = path.with_name(path.name + "-wal")
        try:
            before = path.stat().st_size
            size = before + (log.stat().st_size if log.exists() else 0)
            # A checkpoint between the two looks would count its pages twice.
            if path.stat().st_size == before:
                sizes.append(size)
        except FileNotFoundError:
            continue  # it was removed just now
    return max(sizes)


def stored(folder: Path, job: str, level: int) -> list[str]:
    found: list[str] = []
    for path in databases(folder):
        connection = sqlite3.connect(path)
        rows = connection.execute("SELECT data FROM logs WHERE jobid = ? AND level = ? ORDER BY seq", (job, level))
        found += [data for (data,) in rows]
        connection.close()
    return found


def test_a_long_job_over_many_databases(controller: RecordingController, start_agent: StartAgent) -> None:
    limit = MEGABYTES * 1024 * 1024 // 10
    agent = start_agent(logging=f"max_db_size = {limit}")
    count = MEGABYTES * 1024 * 1024 // 90
    script = f"seq -f '%08.0f {LINE}' 1 {count}"
    controller.push(shell("long", script, loglevels_ac="9"))
    worst = 0

    def is_over() -> bool:
        nonlocal worst
        worst = max(worst, largest(agent.folder / "logs"))
        return bool(controller.results_of("long"))

    wait_until(is_over, 110, "the job's end")
    assert controller.wait_for_result("long", 120)["state"] == "SUCCESS"
    assert agent.stop(60) == 0
    assert worst <= limit, "no database passes its limit, the write-ahead log included"
    assert len(databases(agent.folder / "logs")) > 5
    assert [int(line.split()[0]) for line in stored(agent.folder / "logs", "long", 1)] == list(range(1, count + 1))


def test_several_loggers_and_controllers_across_rotations_one_of_them_away(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    """Each logger sends its own levels to its own controllers; who was away gets everything afterwards, in order."""
    with RecordingController() as second:
        more = """
[logging.second_only]
type = "AC"
flush_int = 1
batch_size = 500
controllers = ["second"]
levels = [1]
[logging.both]
type = "AC"
flush_int = 1
batch_size = 100
controllers = ["main", "second"]
levels = [5]
"""
        agent = start_agent(
            controllers={"main": controller.url, "second": second.url},
            logging="max_db_size = 1048576",
            more=more,
        )
        controller.wait_for_poll()
        second.wait_for_poll()
        second.stop()
        count = 30_000
        # What shares a stream runs one after the other: the blocks of two writers would mix within lines.
        script = (
            f"seq -f '5::%08.0f' 1 {count // 100}; "
            f"seq -f '%08.0f {LINE}' 1 {count} & seq -f '%08.0f' 1 {count // 10} >&2; wait"
        )
        controller.push(shell("j", script))
        controller.wait_for_result("j", 60)
        wait_until(lambda: len(databases(agent.folder / "logs")) > 3, 20, "several databases")

        def sent(to: RecordingController, level: int) -> list[int]:
            return [int(record["data"].split()[0]) for record in to.logs if record["level"] == level]

        wait_until(lambda: len(sent(controller, 2)) >= count // 10, 30, "the lines for the one that was there")
        second.start()
        wait_until(lambda: len(sent(second, 1)) >= count, 60, "the lines for the one that was away")
        wait_until(lambda: len(sent(second, 2)) >= count // 10 and len(sent(second, 5)) >= count // 100, 30, "the rest")
        assert sent(controller, 1) == []
        assert sent(second, 1) == list(range(1, count + 1))
        for to in (controller, second):
            assert sent(to, 2) == list(range(1, count // 10 + 1))
            assert sent(to, 5) == list(range(1, count // 100 + 1))


def test_a_small_configuration_change_keeps_old_databases_readable(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent(logging="max_db_size = 1048576")
    controller.push(execute("first", "seq", "-f", f"%08.0f {LINE}", "1", "20000", loglevels_ac="9"))
    controller.wait_for_result("first", 60)
    assert agent.stop() == 0
    agent.config.write_text(configuration(agent.folder, {"main": controller.url}))
    agent.start()
    controller.push(shell("second", "echo again"))
    controller.wait_for_result("second")
    assert agent.stop() == 0
    assert len(stored(agent.folder / "logs", "first", 1)) == 20000
    assert stored(agent.folder / "logs", "second", 1) == ["again"]
