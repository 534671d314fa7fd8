"""Remembered jobs, ``max_time = -1`` (protocol 5.7).

Defect 19 of the original lists what went wrong with them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.agents import AgentProcess, StartAgent
from tests.support.commands import shell
from tests.support.job_lives import ask, kill, running_pids, states_of, tagged_processes, wait_for_words, words
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def history(agent: AgentProcess) -> list[dict[str, Any]]:
    path = agent.folder / "history"
    return json.loads(path.read_text()) if path.exists() else []


def until(gate: Path) -> str:
    return f"while [ ! -e {gate} ]; do sleep 0.05; done"


def test_the_history_holds_the_command_until_the_job_ends_by_itself_or_by_kill(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent()
    gate, up = tmp_path / "gate", tmp_path / "up"
    commands = {
        "ends": shell("ends", f"echo x >> {up}; {until(gate)}", max_time=-1, queue="q"),
        "killed": shell("killed", f"echo x >> {up}; sleep 1000", max_time=-1),
    }
    for command in commands.values():
        controller.push(command)
    controller.push(shell("plain", f"echo x >> {up}; {until(gate)}"))
    wait_for_words(up, 3)
    wait_until(lambda: len(history(agent)) == 2, what="both in the history")
    entries = {entry["id"]: entry for entry in history(agent)}
    assert set(entries) == {"ends", "killed"}
    for job_id, entry in entries.items():
        assert entry.pop("controller") == "main"
        assert entry.pop("accepted") > 0
        assert entry == commands[job_id], "readable by people: the command as it came"
    kill(controller, "killed")
    assert controller.wait_for_result("killed")["state"] == "KILLED"
    wait_until(lambda: [entry["id"] for entry in history(agent)] == ["ends"], what="the killed one forgotten")
    gate.touch()
    assert controller.wait_for_result("ends")["state"] == "SUCCESS"
    wait_until(lambda: history(agent) == [], what="the ended one forgotten")


def test_nothing_is_reported_at_sigterm_and_the_job_comes_back_with_its_controller_and_queue(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    with RecordingController() as other:
        controllers = {"main": controller.url, "other": other.url}
        folder = tmp_path / "one"
        agent = start_agent(folder=folder, controllers=controllers)
        gate, runs = tmp_path / "gate", tmp_path / "runs"
        other.push(shell("first", f"echo first >> {runs}; {until(gate)}; echo 20::1", max_time=-1, queue="q"))
        wait_for_words(runs, 1)
        other.push(shell("second", f"echo second >> {runs}; echo 20::2", max_time=-1, queue="q"))
        wait_until(lambda: len(history(agent)) == 2, what="both in the history")
        assert agent.stop() == 0
        assert (controller.results, other.results) == ([], [])
        assert [entry["id"] for entry in history(agent)] == ["first", "second"]

        agent = start_agent(folder=folder, controllers=controllers)
        assert wait_for_words(runs, 2) == ["first", "first"]
        assert ask(controller, "ping")["state"] == "SUCCESS"
        assert words(runs) == ["first", "first"], "the second waits in its queue"
        gate.touch()
        assert other.wait_for_result("first")["data"] == "1"
        assert other.wait_for_result("second")["data"] == "2"
        assert words(runs) == ["first", "first", "second"]
        wait_until(lambda: history(agent) == [], what="both forgotten")
        assert agent.stop() == 0
        start_agent(folder=folder, controllers=controllers)
        assert ask(controller, "ping")["state"] == "SUCCESS"
        assert len(words(runs)) == 3, "what has ended is not run again"
        assert [result["cmd"] for result in controller.results] == ["ping", "ping"]


def test_after_kill_minus_nine_exactly_one_copy_runs(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    agent = start_agent(folder=folder)
    pids, service = tmp_path / "pids", tmp_path / "service"
    controller.push(shell("service", f"echo $$ >> {service}; exec sleep 1000", restart="always"))
    # A copy that ignores TERM and has a session of its own must go too.
    controller.push(shell("kept", f"echo $$ >> {pids}; trap '' TERM; setsid sleep 1000 & sleep 1000", max_time=-1))
    for round_number in (1, 2):
        wait_for_words(pids, round_number, 20)
        wait_for_words(service, round_number, 20)
        agent.kill()
        agent = start_agent(folder=folder)
    wait_for_words(pids, 3, 20)
    assert running_pids(pids) == [int(words(pids)[2])]
    assert running_pids(service) == [int(wait_for_words(service, 3, 20)[2])]
    wait_until(lambda: len(tagged_processes(folder)) == 4, what="one shell and its two children, and the service")
    assert controller.results == []
    for name in ("kept", "service"):
        kill(controller, name)
        assert controller.wait_for_result(name)["state"] == "KILLED"
        assert states_of(controller, name) == ["KILLED"]
    assert tagged_processes(folder) == []


def test_a_remembered_job_that_recurs_goes_on_after_a_restart_of_the_agent(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    agent = start_agent(folder=folder)
    runs = tmp_path / "runs"
    controller.push(shell("r", f"echo x >> {runs}", max_time=-1, recurring_period=1000))
    wait_for_words(runs, 1)
    wait_until(lambda: tagged_processes(folder) == [], what="the end of the run")
    assert agent.stop() == 0
    assert controller.results == []
    agent = start_agent(folder=folder)
    wait_for_words(runs, 2)
    kill(controller, "r")
    wait_until(lambda: states_of(controller, "r") == ["KILLED"], what="the end")
    wait_until(lambda: history(agent) == [], what="it to be forgotten")


def test_the_same_remembered_command_after_its_end_is_answered_not_run(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent()
    runs = tmp_path / "runs"
    command = shell("r", f"echo x >> {runs}; echo 20::1", max_time=-1)
    controller.push(command)
    controller.wait_for_result("r")
    controller.push(command)
    wait_until(lambda: len(controller.results_of("r")) == 2, what="the stored result again")
    assert words(runs) == ["x"]
    wait_until(lambda: history(agent) == [], what="it to be forgotten")


def test_a_history_of_the_original_loads(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """Entries of the original: no controller, no stamp, an id repeated; one of a command that is gone."""
    folder = tmp_path / "one"
    folder.mkdir()
    runs = tmp_path / "runs"
    command = shell("old", f"echo x >> {runs}; echo 20::1", max_time=-1) | {"role": "", "gid": 0}
    (folder / "history").write_text(
        json.dumps([command, command, {"id": "gone", "cmd": "gone", "args": {"max_time": -1}, "data": ""}, 7])
    )
    agent = start_agent(folder=folder)
    assert controller.wait_for_result("old")["data"] == "1"
    assert controller.wait_for_result("gone")["state"] == "UNKNOWN_CMD"
    assert words(runs) == ["x"]
    wait_until(lambda: history(agent) == [], what="an empty history")
    assert agent.stderr.count("an entry is left out") == 1


def test_a_history_of_the_original_reports_to_nobody_where_there_are_two_controllers(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    runs = tmp_path / "runs"
    (folder / "history").write_text(json.dumps([shell("old", f"echo x >> {runs}", max_time=-1)]))
    with RecordingController() as other:
        agent = start_agent(folder=folder, controllers={"main": controller.url, "other": other.url})
        wait_for_words(runs, 1)
        wait_until(lambda: history(agent) == [], what="an empty history")
        agent.stop()
        assert (controller.results, other.results) == ([], [])


def test_a_damaged_history_is_set_aside_said_once_and_harms_nothing_else(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    agent = start_agent(folder=folder, max_jobs=1)
    up = tmp_path / "up"
    controller.push(shell("running", f"touch {up}; sleep 1000", max_time=-1))
    wait_until(up.exists, what="the first job")
    controller.push(shell("waiting", "echo later"))
    wait_until(lambda: controller.waiting_commands == 0, what="both handed out")
    ask(controller, "ping")
    agent.kill()
    (folder / "history").write_bytes(b'[{"id": "running", "cm')
    agent = start_agent(folder=folder, max_jobs=2)
    assert controller.wait_for_result("waiting")["state"] == "SUCCESS"
    assert agent.stderr.count("is damaged") == 1
    [aside] = folder.glob("history.damaged-*")
    assert aside.read_bytes() == b'[{"id": "running", "cm'
    # The ledger remembers it too: one copy runs, and it is in the new history.
    wait_until(lambda: [entry["id"] for entry in history(agent)] == ["running"], what="the new history")
    assert "Traceback" not in agent.stderr


def test_startup_tasks_are_never_written_to_the_history(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    up = tmp_path / "up"
    more = f"""
[startup.task]
name = "execute"
[startup.task.args]
name = "sh"
args = ["-c", "echo x >> {up}; sleep 1000"]
max_time = -1
"""
    folder = tmp_path / "one"
    for count in (1, 2):
        agent = start_agent(folder=folder, more=more)
        wait_for_words(up, count)
        assert history(agent) == []
        assert agent.stop() == 0
    assert words(up) == ["x", "x"], "once per start of the agent"
    assert tagged_processes(folder) == []
