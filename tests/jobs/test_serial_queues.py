"""Serial queues, and killall (protocol 5.5 and 5.6)."""

from __future__ import annotations

from pathlib import Path

from tests.support.commands import built_in, execute, shell
from tests.support.inside import StartInside
from tests.support.job_lives import answer_of, ask, kill, states_of, tagged_processes, wait_for_words, words
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def until(gate: Path) -> str:
    return f"while [ ! -e {gate} ]; do sleep 0.05; done"


def test_a_queue_runs_one_at_a_time_in_order_and_others_pass_it(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    start_agent()
    runs, lock = tmp_path / "runs", tmp_path / "lock"
    for number in range(6):
        script = f"mkdir {lock} || echo twice >> {runs}; echo {number} >> {runs}; rmdir {lock}"
        controller.push(shell(f"q{number}", script, queue="q"))
    controller.push(shell("other", "true", queue="r"))
    for job_id in ("other", *(f"q{number}" for number in range(6))):
        assert controller.wait_for_result(job_id)["state"] == "SUCCESS"
    assert words(runs) == list("012345")


def test_a_job_that_is_refused_or_cannot_start_frees_its_queue(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    """Defect 31 of the original: an unknown command or a duplicate blocked its queue for ever."""
    start_agent()
    gate = tmp_path / "gate"
    controller.push(shell("first", until(gate), queue="q"))
    controller.push({"id": "unknown", "cmd": "no_such_command", "args": {"queue": "q"}})
    controller.push(shell("first", "echo another", queue="q"))
    controller.push(execute("missing", "no-such-program", queue="q"))
    controller.push({"id": "bad", "cmd": "execute", "args": {"name": "true", "queue": "q", "loglevels": "5-1"}})
    controller.push(shell("last", "echo last", queue="q"))
    wait_until(lambda: states_of(controller, "first") == ["DUPILICATE_ID"], what="the refusal")
    assert controller.wait_for_result("unknown")["state"] == "UNKNOWN_CMD"
    assert controller.wait_for_result("bad")["state"] == "ERROR"
    gate.touch()
    assert controller.wait_for_result("missing")["state"] == "ERROR"
    assert controller.wait_for_result("last")["streams"] == ["last\n", ""]


def test_a_queued_job_is_killed_before_it_started(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    start_agent()
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    controller.push(shell("first", until(gate), queue="q"))
    controller.push(shell("second", f"echo second >> {runs}", queue="q"))
    controller.push(shell("third", f"echo third >> {runs}", queue="q"))
    wait_until(lambda: controller.waiting_commands == 0, what="all handed out")
    kill(controller, "second")
    result = controller.wait_for_result("second")
    assert (result["state"], result["exit_code"], result.get("streams")) == ("KILLED", None, None)
    gate.touch()
    assert controller.wait_for_result("third")["state"] == "SUCCESS"
    assert words(runs) == ["third"]


def test_full_slots_and_queues_do_not_block_each_other(
    controller: RecordingController, start_agent: StartInside
) -> None:
    """Defect 31 of the original: when only queued jobs ran, slots and queues waited for each other."""
    start_agent(max_jobs=2)
    names = [f"{queue}{number}" for number in range(5) for queue in ("a", "b", "c")]
    for name in names:
        controller.push(shell(name, "true", queue=name[0]))
    controller.push(shell("free", "true"))
    ends = {name: controller.wait_for_result(name, 30) for name in (*names, "free")}
    assert {result["state"] for result in ends.values()} == {"SUCCESS"}
    for queue in "abc":
        starts = [ends[f"{queue}{number}"]["starttime"] for number in range(5)]
        assert starts == sorted(starts)


def test_killall_ends_all_but_itself_and_lets_recurring_and_remembered_jobs_go_on(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    """Defect 38 of the original: killall killed its own job."""
    agent = start_agent(max_jobs=4)
    runs = tmp_path / "runs"
    controller.push(shell("plain", f"echo plain >> {runs}; sleep 1000", max_restart=5, queue="q"))
    controller.push(shell("recurring", f"echo recurring >> {runs}; sleep 1000", recurring_period=1))
    controller.push(shell("sleeping", f"echo sleeping >> {runs}", recurring_period=1000))
    controller.push(shell("remembered", f"echo remembered >> {runs}; sleep 1000", max_time=-1))
    wait_for_words(runs, 4)
    wait_until(lambda: len(tagged_processes(agent.folder)) == 6, what="three shells with a child each")
    controller.push(shell("queued", f"echo queued >> {runs}", queue="q"))
    controller.push(shell("waiting", f"echo waiting >> {runs}"))
    wait_until(lambda: controller.waiting_commands == 0, what="all handed out")
    assert answer_of(controller, "killall") is True
    for job_id in ("plain", "queued", "waiting"):
        assert controller.wait_for_result(job_id)["state"] == "KILLED"
    # The current runs of the two ended, and the next ones came.
    wait_until(lambda: sorted(words(runs)).count("recurring") == 2, what="the next period")
    wait_until(lambda: sorted(words(runs)).count("remembered") == 2, what="the remembered one again")
    assert sorted(set(words(runs))) == ["plain", "recurring", "remembered", "sleeping"]
    assert words(runs).count("sleeping") == 1
    for job_id in ("recurring", "remembered", "sleeping"):
        assert controller.results_of(job_id) == [], "nothing is reported meanwhile"
        kill(controller, job_id)
        assert controller.wait_for_result(job_id)["state"] == "KILLED"
    assert tagged_processes(agent.folder) == []


def test_built_ins_are_answered_while_every_slot_is_taken(
    controller: RecordingController, start_agent: StartInside
) -> None:
    """Defect 29 of the original: a full agent could not be relieved."""
    agent = start_agent(max_jobs=1)
    for number in range(3):
        controller.push(execute(f"j{number}", "sleep", "1000"))
    assert answer_of(controller, "ping") == "pong"
    assert len(answer_of(controller, "get_cpu_info")) >= 1
    controller.push(built_in("all", "killall"))
    assert controller.wait_for_result("all")["state"] == "SUCCESS"
    for number in range(3):
        assert controller.wait_for_result(f"j{number}")["state"] == "KILLED"
    assert ask(controller, "kill", {"id": "j0"})["state"] == "ERROR"
    assert tagged_processes(agent.folder) == []
