"""Every run of a process leaves a record on its node; nothing else does."""

from __future__ import annotations

import json
import time

import pytest

from greenagent.jobs.commands import Answer
from tests.support.commands import built_in, execute, shell
from tests.support.inside import InsideAgent
from tests.support.job_lives import kill
from tests.support.log_program import lines, run
from tests.support.recording_controller import RecordingController
from tests.support.run_rows import runs_of, wait_for_run


def test_a_run_is_recorded_with_its_times_and_its_end(inside: InsideAgent, controller: RecordingController) -> None:
    logs = inside.folder / "logs"
    before = time.time()
    controller.push(shell("silent", "exit 9", domain="web", queue="q"))
    result = controller.wait_for_result("silent")
    found = wait_for_run(logs, "silent")
    assert found[1:7] == ("silent", 1, "main", "web", "sh", "sh -c 'exit 9'")
    assert before - 1 < found.accepted <= found.started <= found.ended < time.time() + 1
    assert round(found.started * 1000) == result["starttime"]
    assert (found.exit_code, found.signal, found.state, found.reason) == (9, None, "ERROR", "exit code 9")
    assert found.cpu is not None
    assert [round(stamp, 3) for stamp in (found.accepted, found.started, found.ended)] == list(found[7:10])


def test_the_beginning_is_there_while_it_runs(inside: InsideAgent, controller: RecordingController) -> None:
    logs = inside.folder / "logs"
    controller.push(shell("long", "exec sleep 1000"))
    begun = wait_for_run(logs, "long", ended=False)
    assert (begun.exit_code, begun.state) == (None, None)
    kill(controller, "long")
    ended = wait_for_run(logs, "long")
    assert ended[:9] == begun[:9]
    assert (ended.exit_code, ended.signal, ended.state) == (None, "SIGTERM", "KILLED")
    assert ended.memory > 100_000


@pytest.mark.parametrize(
    ("command", "state", "exit_code", "signal", "reason"),
    [
        (shell("x", "exec sleep 1000", max_time=1), "TIMEOUT", None, "SIGTERM", "ended after max_time, 1 s"),
        (shell("x", "kill -SEGV $$"), "ERROR", None, "SIGSEGV", "ended by SIGSEGV"),
        (shell("x", "echo '20::{\"a\": 1}'"), "SUCCESS", 0, None, ""),
        (execute("x", "/no/such/program", "a"), "ERROR", None, None, "/no/such/program"),
        (execute("x", ""), "ERROR", None, None, "args.name must name the executable"),
    ],
)
def test_each_way_to_end(
    inside: InsideAgent,
    controller: RecordingController,
    command: dict,
    state: str,
    exit_code: int | None,
    signal: str | None,
    reason: str,
) -> None:
    controller.push(command)
    controller.wait_for_result("x")
    found = wait_for_run(inside.folder / "logs", "x")
    assert (found.state, found.exit_code, found.signal) == (state, exit_code, signal)
    assert reason in found.reason if reason else found.reason == ""


def test_each_run_of_a_job_has_one(inside: InsideAgent, controller: RecordingController) -> None:
    controller.push(shell("again", "exit 3", max_restart=1))
    controller.wait_for_result("again")
    wait_for_run(inside.folder / "logs", "again", run=2)
    found = runs_of(inside.folder / "logs", "again")
    assert [(one.run, one.exit_code) for one in found] == [(1, 3), (2, 3)]
    assert found[0].accepted == found[1].accepted
    assert found[1].started - found[0].started >= 1


def test_a_job_that_is_killed_before_its_turn_has_a_record_without_a_start(
    inside: InsideAgent, controller: RecordingController
) -> None:
    for name, command in (("first", "sleep 999"), ("waits", "sleep 1005"), ("first", "sleep 998")):
        controller.push(shell(name, f"exec {command}", queue="q"))  # the third is refused
    assert controller.wait_for_result("first")["reason"] == "never_began"
    kill(controller, "waits")
    result = controller.wait_for_result("waits")
    assert (result["state"], result["reason"]) == ("KILLED", "never_began")
    found = wait_for_run(inside.folder / "logs", "waits", run=0)
    assert (found.state, found.ended, found.reason) == ("KILLED", found.started, "killed before it was started")
    (row,) = [line.split() for line in lines("--dir", inside.folder / "logs", "--jobs") if "sleep 1005" in line]
    assert (row[3], row[5], row[7]) == ("-", "-", "KILLED"), row
    assert "never ran" in run("--dir", inside.folder / "logs", "--job", "waits").stderr


def test_built_ins_and_what_is_refused_have_none(inside: InsideAgent, controller: RecordingController) -> None:
    inside.agent.commands.built_ins = {**inside.agent.commands.built_ins, "quick": lambda command: Answer("1")}
    for name in ("quick", "nonsense"):
        controller.push(built_in(name, name))
        controller.wait_for_result(name)
    controller.push(shell("last", "true"))
    wait_for_run(inside.folder / "logs", "last")
    assert runs_of(inside.folder / "logs", "quick") == runs_of(inside.folder / "logs", "nonsense") == []


def test_passwords_in_urls_are_left_out_and_long_lines_are_cut(
    inside: InsideAgent, controller: RecordingController
) -> None:
    controller.push(execute("url", "echo", "https://me:geheim@host/x", "x" * 10_000))
    found = wait_for_run(inside.folder / "logs", "url")
    assert found.command.startswith("echo 'https://***@host/x' xxx")
    assert "geheim" not in found.command
    assert len(found.command) < 4200


def test_a_stop_of_the_agent_leaves_no_run_without_an_end(inside: InsideAgent, controller: RecordingController) -> None:
    controller.push(shell("stopped", "exec sleep 1000"))
    controller.push(shell("kept", "exec sleep 1000", max_time=-1))
    for name in ("stopped", "kept"):
        wait_for_run(inside.folder / "logs", name, ended=False)
    inside.stop()
    for name in ("stopped", "kept"):
        assert [one.state for one in runs_of(inside.folder / "logs", name)] == ["KILLED"]
    result = controller.wait_for_result("stopped")
    assert (result["state"], result["reason"], result["data"]) == ("KILLED", "agent_stopped", "the agent was stopped")
    shown = lines("--dir", inside.folder / "logs", "--jobs")
    assert len([line for line in shown if "KILLED (the agent was stopped)" in line]) == 2


def test_without_a_db_logger_records_lie_beside_the_ledger(
    inside: InsideAgent, controller: RecordingController
) -> None:
    text = (inside.folder / "greenagent.toml").read_text()
    inside.stop()
    head, _, rest = text.partition("[logging.db]")
    other = InsideAgent(inside.folder, {}, head + rest[rest.index("[logging.ac]") :])
    with other:
        controller.push(shell("silent", "exit 9"))
        controller.wait_for_result("silent")
        assert wait_for_run(inside.folder / "history.db.logs", "silent").exit_code == 9
        (shown,) = lines("-c", inside.folder / "greenagent.toml", "--jobs", "--json")
        assert json.loads(shown)["exit_code"] == 9
        done = run("-c", inside.folder / "greenagent.toml")
        assert (done.returncode, done.stdout) == (1, "")
        assert "has no logger of type DB: there is nothing to read but what ran (--jobs)" in done.stderr
