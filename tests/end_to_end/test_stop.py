"""How the agent ends: SIGTERM, SIGTERM twice, SIGUSR1 (design, section 5 "Ending")."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.support.agents import AgentProcess, StartAgent, configuration
from tests.support.commands import shell
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def stubborn(job_id: str, up: Path) -> dict:
    """A job that ignores TERM."""
    return shell(job_id, f"trap '' TERM; echo $$ > {up}.new; mv {up}.new {up}; while :; do sleep 0.05; done")


def send(agent: AgentProcess, number: int) -> None:
    os.kill(agent.pid, number)


def test_a_second_sigterm_skips_the_grace_and_leaves_no_process(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    agent = start_agent(folder=folder, kill_grace=600)
    up = tmp_path / "up"
    controller.push(stubborn("j", up))
    wait_until(up.exists, what="the job")
    send(agent, signal.SIGTERM)
    wait_until(lambda: "stopping" in agent.stderr, what="the stop")
    assert agent.poll() is None
    send(agent, signal.SIGTERM)
    assert agent.wait() == 0
    assert not Path(f"/proc/{up.read_text().strip()}").exists()
    # What was not delivered for lack of waiting is delivered at the next start.
    start_agent(folder=folder)
    assert controller.wait_for_result("j")["state"] == "KILLED"


def test_waiting_jobs_and_those_of_an_open_poll_run_at_the_next_start(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    agent = start_agent(folder=folder, max_jobs=1)
    up = tmp_path / "up"
    controller.push(shell("first", f"touch {up}; sleep 1000"))
    controller.push(shell("second", "echo ran"))
    wait_until(lambda: up.exists() and controller.waiting_commands == 0, what="both commands handed out")
    wait_until(lambda: controller.polls[-1].answered is None, what="the next poll")
    assert agent.stop() == 0
    assert [result["id"] for result in controller.results] == ["first"]
    start_agent(folder=folder, max_jobs=1)
    assert controller.wait_for_result("second")["streams"] == ["ran\n", ""]


def test_sigusr1_lets_the_current_runs_end_and_takes_no_more(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    agent = start_agent(folder=folder)
    gate = tmp_path / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    runs = tmp_path / "runs"
    controller.push(shell("once", f"echo once >> {runs}; {wait}; echo 20::7"))
    controller.push(shell("again", f"echo again >> {runs}; {wait}", recurring_period=1000))
    controller.push(shell("kept", f"echo kept >> {runs}; {wait}; exit 1", max_time=-1, max_restart=1000))
    wait_until(lambda: runs.exists() and len(runs.read_text().split()) == 3, what="three jobs")
    send(agent, signal.SIGUSR1)
    wait_until(lambda: "draining: 3 jobs run" in agent.stderr, what="the draining")
    controller.push(shell("late", "echo late"))
    send(agent, signal.SIGUSR1)  # asked again: nothing more happens
    gate.touch()
    assert agent.wait() == 0
    states = {result["id"]: result["state"] for result in controller.results}
    assert states == {"once": "SUCCESS"}
    assert sorted(runs.read_text().split()) == ["again", "kept", "once"]
    start_agent(folder=folder)
    assert controller.wait_for_result("late")["state"] == "SUCCESS"
    wait_until(lambda: runs.read_text().split().count("kept") >= 2, what="the remembered job again")


def test_sigterm_while_draining_ends_the_runs(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent(kill_grace=60)
    up = tmp_path / "up"
    controller.push(shell("j", f"trap 'echo bye; exit 0' TERM; touch {up}; while :; do sleep 0.05; done"))
    wait_until(up.exists, what="the job")
    send(agent, signal.SIGUSR1)
    wait_until(lambda: "draining: 1 job runs, no more is taken" in agent.stderr, what="the draining")
    assert "stopping" not in agent.stderr
    send(agent, signal.SIGTERM)
    assert agent.wait() == 0
    assert agent.stderr.index("draining") < agent.stderr.index("stopping")
    [result] = controller.results
    assert (result["state"], result["streams"][0], result["exit_code"]) == ("KILLED", "bye\n", 0)


def test_drain_wait_bounds_the_draining(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent(main="drain_wait = 0.5")
    up = tmp_path / "up"
    controller.push(shell("j", f"touch {up}; sleep 1000"))
    wait_until(up.exists, what="the job")
    send(agent, signal.SIGUSR1)
    assert agent.wait() == 0
    assert controller.results[0]["state"] == "KILLED"


def test_sighup_while_draining_takes_no_commands_and_delivers_still(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """Neither from a controller that is new, nor from one whose settings change."""
    agent = start_agent()
    up, gate = tmp_path / "up", tmp_path / "gate"
    script = f"touch {up}; while [ ! -e {gate} ]; do sleep 0.02; done; echo at the end >&2; echo 20::7"
    controller.push(shell("long", script))
    wait_until(up.exists, what="the job")
    wait_until(lambda: controller.polls[-1].answered is None, what="the next poll")
    send(agent, signal.SIGUSR1)
    wait_until(lambda: "draining: 1 job runs" in agent.stderr, what="the draining")
    with RecordingController() as second:
        for one in (controller, second):
            one.push(shell("late", "echo late"))
        polls = len(controller.polls)
        text = configuration(agent.folder, {"main": controller.url + "/below", "second": second.url})
        agent.config.write_text(text)
        send(agent, signal.SIGHUP)
        wait_until(lambda: "reloaded: controllers.second added" in agent.stderr, what="the reload")
        send(agent, signal.SIGHUP)
        wait_until(lambda: "nothing has changed" in agent.stderr, what="the second reload")
        gate.touch()
        assert agent.wait() == 0
        assert (len(controller.polls), second.polls) == (polls, [])
        assert (controller.waiting_commands, second.waiting_commands) == (1, 1)
        assert [(result["id"], result["data"]) for result in controller.results] == [("long", "7")]
        for one in (controller, second):
            assert [record["data"] for record in one.logs] == ["at the end"]
