"""Jobs that must always run, ``restart = "always"``: nothing but a kill ends them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from greenagent.agent.shutdown import DRAIN
from greenagent.jobs.job import Stage
from tests.support.commands import execute, shell
from tests.support.inside import InsideAgent, StartInside
from tests.support.job_lives import ask, kill, states_of, wait_for_words, words
from tests.support.log_program import lines
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def remembered(agent: InsideAgent) -> list[str]:
    return [entry["id"] for entry in json.loads((agent.folder / "history").read_text())]


def test_it_is_started_again_however_it_ends_and_reports_nothing_until_it_is_killed(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    agent = start_agent()
    runs = tmp_path / "runs"
    # Without a child of the shell once it has said that it runs: TERM would leave that behind.
    once = f"[ -e {runs} ] || {{ echo x > {runs}; exit; }}"
    controller.push(shell("s", f"{once}; echo x >> {runs}; exec sleep 1000", restart="always"))
    wait_for_words(runs, 2)
    agent.wait_for_process("s")
    kill(controller, "s", "TERM")  # a message to the process, not the end of the job
    wait_for_words(runs, 3)
    assert controller.results_of("s") == []
    assert remembered(agent) == ["s"]
    assert "(service)" in lines("-c", agent.folder / "greenagent.toml", "--jobs", "--job", "s")[-1]
    kill(controller, "s")
    assert controller.wait_for_result("s")["state"] == "KILLED"
    assert (agent.stop(), remembered(agent), words(runs)) == (0, [], ["x", "x", "x"])
    said = [row[3] for row in agent.rows("jobid = 's' AND level = 7")]
    assert [text.split(" after ")[0] for text in said] == ["greenagent: exit code 0", "greenagent: ended by SIGTERM"]
    assert all(text.endswith((": starts again in 1 s", ": starts again in 2 s")) for text in said)


def test_it_comes_back_with_the_agent_until_it_is_killed(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    folder, runs = tmp_path / "one", tmp_path / "runs"
    agent = start_agent(folder=folder)
    controller.push(shell("s", f"echo x >> {runs}; exec sleep 1000", restart="always"))
    for count in (1, 2):
        wait_for_words(runs, count)
        agent.stop()
        assert controller.results_of("s") == []
        agent = start_agent(folder=folder)
    wait_for_words(runs, 3)
    kill(controller, "s")
    wait_until(lambda: states_of(controller, "s") == ["KILLED"], what="its end")
    agent.stop()
    start_agent(folder=folder)
    assert ask(controller, "ping")["state"] == "SUCCESS"
    assert len(words(runs)) == 3


def test_a_kill_while_it_waits_for_its_restart_ends_it(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    agent = start_agent()
    controller.push(shell("s", "exit 3", restart="always"))
    wait_until(lambda: "s" in agent.agent.admission.live and agent.agent.admission.live["s"].run >= 2, what="run 2")
    kill(controller, "s")
    assert controller.wait_for_result("s")["state"] == "KILLED"


def test_a_program_that_was_never_there_ends_it_and_one_that_is_gone_for_a_while_does_not(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    agent = start_agent()
    controller.push(execute("missing", "no-such-program", restart="always"))
    assert controller.wait_for_result("missing")["state"] == "ERROR"
    program, runs = tmp_path / "program", tmp_path / "runs"
    script = f"#!/bin/sh\necho x >> {runs}\nmv {program} {program}.away\n[ $(wc -l < {runs}) = 1 ] || exec sleep 1000\n"
    program.write_text(script)
    program.chmod(0o755)
    job = agent.accept(execute("replaced", str(program), restart="always"))
    assert job is not None
    wait_until(lambda: job.run >= 2 and job.stage is Stage.SLEEPING, what="a start that failed")
    Path(f"{program}.away").rename(program)
    wait_for_words(runs, 2)
    kill(controller, "replaced")


def test_a_drain_does_not_wait_for_it(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    agent = start_agent()
    agent.start_job(shell("s", "exec sleep 1000", restart="always"))
    assert agent.stop(DRAIN) == 0
    assert controller.results_of("s") == []
    assert remembered(agent) == ["s"]


@pytest.mark.parametrize("value", ["sometimes", True, 1, ["always"]])
def test_any_other_value_is_refused_in_one_sentence(
    controller: RecordingController, start_agent: StartInside, value: object
) -> None:
    start_agent()
    controller.push(execute("s", "true", restart=value))
    result = controller.wait_for_result("s")
    shown = value if isinstance(value, str) else json.dumps(value)
    assert (result["state"], result["data"]) == ("ERROR", f"args.restart must be 'always', not '{shown}'")
