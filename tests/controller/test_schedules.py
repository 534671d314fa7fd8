"""Schedules post their commands when they are due, by a clock that may be set and a controller that may be away."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from greenagent.controller.limits import Limits
from greenagent.controller.schedules.schedule import parse_schedule
from greenagent.controller.schedules.scheduler import Scheduler
from greenagent.controller.schedules.store import LocalSchedules
from greenagent.controller.state.state_file import StateFile
from tests.support.controllers import ControllerProcess
from tests.support.local_controller import Agent, LocalController, plain
from tests.support.waiting import wait_until

COMMAND = {"cmd": "execute", "gid": 1, "nid": 10, "args": {"name": "true"}}
NOON = datetime(2026, 6, 1, 12, tzinfo=ZoneInfo("UTC")).timestamp()


def shown(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(moment))


class Clock:
    """A wall clock that stands where the test has set it."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Bench:
    """A scheduler that looks when it is told to, and posts to a real controller."""

    def __init__(self, controller: LocalController, state: Path | None = None, clock: Clock | None = None) -> None:
        self.controller = controller
        self.clock = clock or Clock()
        self.file = StateFile(state)
        store = LocalSchedules(self.file)
        store.load()
        services = controller.services
        self.scheduler = Scheduler(store, services.jobs, services.submission.submit, services.log, Limits(), self.clock)

    def add(self, schedule_id: str = "s", cron: str = "@every 10m", **more: Any) -> None:
        given = {"id": schedule_id, "cron": cron, "zone": "UTC", "command": COMMAND, **more}
        self.scheduler.add(parse_schedule(given, self.clock.now, 100_000), replaces="replace" in more)
        self.scheduler.look()

    def look(self, seconds: float = 0.0) -> list[str]:
        """Looks that many seconds later; the events that it makes."""
        before = self.events()
        self.clock.now += seconds
        self.scheduler.look()
        return [f"{one['what']} {one['text']}".strip() for one in self.events() if one not in before]

    def events(self) -> list[dict[str, Any]]:
        return [event for _, progress in self.scheduler.all() for event in progress.events]

    def jobs(self) -> list[str]:
        """The ids of the jobs of schedules, oldest first."""
        return [job.id for job in reversed(list(self.controller.services.jobs.newest())) if job.brief.schedule]

    def progress(self, schedule_id: str = "s") -> Any:
        return self.scheduler.get(schedule_id)[1]

    def close(self) -> None:
        self.file.close()


@pytest.fixture
def bench(controller: LocalController) -> Bench:
    Agent(controller).poll()  # a command for an agent that was never here ends at once
    return Bench(controller)


def test_each_run_is_a_job_with_an_id_of_its_own_that_names_its_schedule(bench, controller) -> None:
    bench.add(cron="0 * * * *", overlap=True)
    assert bench.look(3599) == []
    assert bench.look(1) == ["run"]
    assert bench.look(1) == []
    assert bench.look(3600) == ["run"]
    first, second = bench.jobs()
    assert first != second
    listed = controller.get("jobs")["jobs"]
    assert [(job["id"], job["schedule"], job["command_line"]) for job in listed] == [
        (second, "s", "true"),
        (first, "s", "true"),
    ]
    assert bench.progress().job == second
    assert bench.progress().runs == 2


def test_nobody_else_can_name_a_schedule(controller) -> None:
    controller.submit(**COMMAND, id="j", schedule="s", wait_for_agent=60)
    job = controller.get("jobs/j")
    assert job["schedule"] == ""
    assert "schedule" not in job["command"]


def test_a_run_is_skipped_while_the_one_before_has_not_ended(bench, controller) -> None:
    agent = Agent(controller, nid=11)
    poll = agent.poll()
    bench.add(command={**COMMAND, "nid": 11})
    assert bench.look(600) == ["run"]
    (job_id,) = bench.jobs()
    assert poll.command()["id"] == job_id
    assert bench.look(600) == [f"skipped the run before has not ended: job {job_id}"]
    assert bench.look(600) == [f"skipped the run before has not ended: job {job_id}"]
    assert f"schedule s: a run is skipped, the run before has not ended: job {job_id}" in controller.said
    agent.finish(job_id)
    assert bench.look(600) == ["run"]
    assert bench.progress().skipped == 2
    assert len(bench.jobs()) == 2


def test_runs_may_overlap_where_that_is_asked_for(bench) -> None:
    bench.add(overlap=True)
    assert [bench.look(600) for _ in range(3)] == [["run"]] * 3


def test_a_run_that_is_a_little_late_is_made(bench) -> None:
    bench.add(cron="0 * * * *")
    assert bench.look(3659) == ["run"]
    assert bench.progress().due == NOON + 7200


def test_missed_runs_are_named_and_counted(bench, controller) -> None:
    bench.add(cron="0 * * * *")
    assert bench.look(3 * 3600 + 120) == [
        f"missed 3 runs missed ({shown(NOON + 3600)} to {shown(NOON + 3 * 3600)}):"
        " the clock was set ahead, or the machine stood still"
    ]
    assert any(line.startswith("schedule s: 3 runs missed (") for line in controller.said)
    assert bench.jobs() == []
    assert bench.progress().missed == 3
    assert bench.look(3600 - 120) == ["run"]


def test_one_run_makes_up_for_all_missed_where_that_is_asked_for(bench) -> None:
    bench.add(cron="0 * * * *", catch_up=True)
    events = bench.look(3 * 3600 + 120)
    assert [event.partition(" ")[0] for event in events] == ["missed", "run"]
    assert len(bench.jobs()) == 1
    assert bench.progress().due == NOON + 4 * 3600


def test_of_several_in_time_the_newest_is_made(bench) -> None:
    bench.add(cron="@every 10s")
    assert [event.partition(" (")[0] for event in bench.look(35)] == ["missed 2 runs missed", "run"]


def test_a_year_of_missed_seconds_takes_no_time_to_count(bench) -> None:
    bench.add(cron="@every 1s")
    events = bench.look(365 * 86_400)
    assert [event.partition(" (")[0] for event in events] == ["missed 1059 or more runs missed", "run"]


def test_a_clock_that_is_set_back_makes_no_certain_time_come_twice(bench) -> None:
    bench.add("fixed", cron="0 12 * * *", overlap=True)
    bench.add("steps", cron="*/10 * * * *", overlap=True)
    bench.look(86_400 - 60)
    assert bench.look(60) == ["run", "run"]
    assert bench.look(-1800) == []
    assert [bench.look(600) for _ in range(3)] == [["run"]] * 3
    assert bench.progress("steps").runs == 1 + 3
    assert bench.progress("fixed").runs == 1
    assert bench.progress("fixed").due == NOON + 2 * 86_400


@pytest.mark.parametrize("cron", ["@every 10m", "0 12 * * *"])
def test_a_clock_that_was_a_year_ahead_holds_up_nothing_once_it_is_set(bench, cron) -> None:
    bench.clock.now += 365 * 86_400
    bench.add(cron=cron, overlap=True)
    bench.look(86_400)
    runs = bench.progress().runs
    bench.look(-366 * 86_400)
    bench.look(86_400)
    assert bench.progress().runs == runs + 1


def test_jitter_puts_each_run_off_but_not_beyond_the_next_one(bench) -> None:
    bench.add(cron="0 * * * *", jitter=600, overlap=True)
    offs = []
    for _ in range(20):
        progress = bench.progress()
        offs.append(progress.at - progress.due)
        assert bench.look(progress.at - 0.001 - bench.clock.now) == []
        assert bench.look(0.002) == ["run"]
    assert all(0 <= one <= 600 for one in offs)
    assert len(set(offs)) == 20
    assert max(offs) > 100
    bench.add("often", cron="@every 10s", jitter=600)
    progress = bench.progress("often")
    assert progress.at - progress.due <= 10


def test_a_paused_one_runs_and_misses_nothing(bench) -> None:
    bench.add()
    bench.scheduler.pause("s", True)
    assert bench.look(6000) == []
    assert bench.progress().due is None
    bench.scheduler.pause("s", False)
    assert bench.look() == []
    assert bench.look(600) == ["run"]
    assert bench.progress().missed == 0


def test_replaced_it_keeps_its_progress_and_stays_paused(bench) -> None:
    bench.add()
    bench.look(600)
    bench.add(cron="@every 1h", replace=True)
    assert bench.progress().runs == 1
    assert bench.progress().due == NOON + 600 + 3600
    bench.scheduler.pause("s", True)
    bench.add(cron="@every 2h", replace=True)
    assert bench.progress().due is None


def test_a_command_that_is_refused_is_named(controller) -> None:
    bench = Bench(controller)
    missing = json.dumps({"hash": "0" * 32, "args": {}})
    bench.add(command={**COMMAND, "cmd": "jumpscript_content", "data": missing})
    (event,) = bench.look(600)
    assert event.startswith("refused no script with the hash")
    assert bench.look(600) == [event]


def test_what_a_schedule_was_about_to_do_survives_kill(bench, tmp_path) -> None:
    """The controller is killed after the command was posted, before the schedule has noted it."""
    state = tmp_path / "schedules.db"
    first = Bench(bench.controller, state)
    first.add(cron="0 * * * *", overlap=True)
    first.clock.now += 3600
    store = first.scheduler._store
    note, store.note = store.note, lambda *noted: None  # type: ignore[method-assign]
    first.scheduler.look()
    store.note = note  # type: ignore[method-assign]
    first.close()
    (job_id,) = first.jobs()
    second = Bench(bench.controller, state, Clock(first.clock.now + 1))
    assert second.look() == ["run"]
    assert second.jobs() == [job_id]
    assert second.look(3600) == ["run"]
    assert len(second.jobs()) == 2
    second.close()


def test_missed_while_no_controller_was_there(bench, tmp_path) -> None:
    state = tmp_path / "schedules.db"
    first = Bench(bench.controller, state)
    first.add("a", cron="0 * * * *", jitter=5)
    first.add("b", cron="0 0 * * *", catch_up=True)
    first.scheduler.pause("b", True)
    first.close()
    second = Bench(bench.controller, state, Clock(NOON + 2 * 3600 + 1200))
    assert second.look() == [
        f"missed 2 runs missed ({shown(NOON + 3600)} to {shown(NOON + 2 * 3600)}): no controller was there"
    ]
    assert second.scheduler.get("b")[0].paused
    assert second.scheduler.get("a")[0] == first.scheduler.get("a")[0]
    second.close()


def test_a_state_file_that_is_removed_is_made_again_with_its_schedules(make_controller, tmp_path) -> None:
    state = tmp_path / "state.db"
    controller = make_controller(state=state)
    assert controller.post("schedules", {"id": "s", "cron": "@daily", "command": COMMAND}).status_code == 201
    for path in tmp_path.glob("state.db*"):
        path.unlink()
    wait_until(lambda: any("made again" in line for line in controller.said), what="the file to be made again")
    controller.stop()
    again = make_controller(state=state)
    assert [one["id"] for one in again.get("schedules")["schedules"]] == ["s"]


def test_a_real_controller_keeps_them_over_kill(tmp_path) -> None:
    process = ControllerProcess(tmp_path, "--state", tmp_path / "state.db")
    session = plain()

    def post(path: str, value: Any) -> Any:
        return session.post(f"{process.url}/api/{path}", json=value, timeout=60)

    def jobs() -> list[dict[str, Any]]:
        return process.get("jobs")["jobs"]

    try:
        command = {**COMMAND, "wait_for_agent": 600}
        given = {"id": "each second", "cron": "* * * * * *", "command": command, "overlap": True}
        assert post("schedules", given).status_code == 201
        wait_until(lambda: len(jobs()) >= 2, what="two runs")
        process.kill()
        before = jobs_of(tmp_path)
        process.start()
        after = wait_until(lambda: (found := jobs())[len(before) :] and found, what="a run after the start")
        assert {job["schedule"] for job in after} == {"each second"}
        assert len({job["id"] for job in after}) == len(after)
        assert post("schedules/each second/remove", {}).status_code == 200
        assert process.get("schedules") == {"schedules": []}
    finally:
        process.kill()


def jobs_of(folder: Path) -> list[Any]:
    file = StateFile(folder / "state.db")
    try:
        return file.read("SELECT id FROM jobs")
    finally:
        file.close()


@pytest.mark.parametrize("seconds", [600, -300])
def test_a_zone_that_this_machine_does_not_know_is_said_and_holds_up_no_other(bench, seconds) -> None:
    """Another machine wrote it, which knew the zone, and knows when it is due."""
    bench.add("good", overlap=True)
    bench.add("odd", overlap=True)
    schedule, _ = bench.scheduler.get("odd")
    bench.scheduler._store.put(replace(schedule, zone="Mars/Olympus"))
    *runs, refused = bench.look(seconds)
    assert runs == (["run"] if seconds > 0 else [])
    assert refused.startswith("refused this machine knows no time zone 'Mars/Olympus'")
    assert bench.look(abs(seconds)) == ["run"]
