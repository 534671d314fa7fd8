"""SIGHUP applies what it can, touches no running job, and a broken file changes nothing."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from greenagent import __version__
from tests.support.agents import StartAgent, configuration
from tests.support.commands import shell
from tests.support.packages import patient_package
from tests.support.recording_controller import RecordingController, accept_after
from tests.support.waiting import wait_until


def test_levels_roles_extensions_controllers_and_max_jobs_apply_to_a_running_agent(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent(max_jobs=1)
    gate, up = tmp_path / "gate", tmp_path / "up"
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    controller.push(shell("running", f"touch {up}; {wait}; echo 3::after; echo two >&2"))
    wait_until(up.exists, what="the running job")
    controller.push(shell("waiting", "echo ran"))
    wait_until(lambda: controller.waiting_commands == 0, what="the second command handed out")
    with RecordingController() as second:
        text = configuration(
            agent.folder,
            {"main": controller.url, "second": second.url},
            max_jobs=5,
            roles=["web"],
            main="max_line = 2048",
            more='[extensions.hello]\nbinary = "echo"\nargs = ["hello"]\n',
        ).replace("levels = [2]", "levels = [3]")
        agent.config.write_text(text)
        os.kill(agent.pid, signal.SIGHUP)
        # The waiting job starts since there are more slots now; the new controller is polled with the new role.
        assert controller.wait_for_result("waiting")["state"] == "SUCCESS"
        assert second.wait_for_poll().roles == ["web"]
        second.push({"id": "e", "cmd": "hello", "args": {}})
        assert second.wait_for_result("e")["streams"] == ["hello\n", ""]
        gate.touch()
        assert controller.wait_for_result("running")["state"] == "SUCCESS"
        wait_until(lambda: controller.logs and second.logs, what="the uploads at the new level")
        assert [record["data"] for record in controller.logs] == ["after"]
        assert [record["data"] for record in second.logs] == ["after"]
        agent.await_said("not applied, needs a restart: main.max_line: 1048576 -> 2048")
        agent.config.write_text(configuration(agent.folder, {"main": controller.url}))
        os.kill(agent.pid, signal.SIGHUP)
        wait_until(lambda: "controllers.second removed" in agent.stderr, what="the removal")
        polls = len(second.polls)
        assert agent.stop() == 0
        assert len(second.polls) == polls


def test_a_broken_file_changes_nothing_and_says_why(controller: RecordingController, start_agent: StartAgent) -> None:
    agent = start_agent()
    agent.config.write_text("[main]\ngid = 1\nnid = 10\nrolls = []\n")
    os.kill(agent.pid, signal.SIGHUP)
    wait_until(lambda: "not reloaded:" in agent.stderr, what="the refusal")
    agent.await_said("did you mean 'roles'")
    controller.push(shell("j", "echo still here"))
    assert controller.wait_for_result("j")["streams"] == ["still here\n", ""]
    assert "Traceback" not in agent.stderr


def test_a_batch_under_way_to_a_controller_that_is_removed_is_accepted_and_not_sent_again(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    with RecordingController() as second:
        both = {"main": controller.url, "second": second.url}
        agent = start_agent(controllers=both, python_path=str(patient_package(tmp_path / "installed")))
        second.misbehave("log", accept_after(1.0))
        second.push(shell("j", "echo once >&2"))
        wait_until(lambda: "log" in [post.endpoint for post in second.refused_posts], what="the batch under way")
        agent.config.write_text(configuration(agent.folder, {"main": controller.url}))
        os.kill(agent.pid, signal.SIGHUP)
        wait_until(lambda: "controllers.second removed" in agent.stderr, what="the removal")
        second.behave()
        agent.config.write_text(configuration(agent.folder, both))
        os.kill(agent.pid, signal.SIGHUP)
        wait_until(lambda: "controllers.second added" in agent.stderr, what="its return")
        second.push(shell("k", "echo more >&2"))
        wait_until(lambda: "more" in [record["data"] for record in second.logs], what="the next line")
        assert [record["data"] for record in second.logs] == ["once", "more"]
        assert "internal error" not in agent.stderr


def test_the_agents_own_lines_have_a_zone_the_version_and_what_verbosity_asks_for(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    (ready,) = agent.stderr.splitlines()
    form = rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{{4}} info: greenagent {re.escape(__version__)} 1:10 is ready, .*"
    assert re.fullmatch(form, ready)
    os.kill(agent.pid, signal.SIGHUP)
    wait_until(lambda: "nothing has changed; variables and options stay those of the start" in agent.stderr)
    controller.push(shell("quiet", "true"))
    controller.wait_for_result("quiet")
    text = agent.config.read_text()
    agent.config.write_text(text.replace("[main]", '[main]\nverbosity = "debug"'))
    os.kill(agent.pid, signal.SIGHUP)
    wait_until(lambda: 'main.verbosity: "info" -> "debug"' in agent.stderr)
    controller.push(shell("shown", "exit 3"))
    controller.wait_for_result("shown")
    wait_until(lambda: "shown: run 1 (execute sh) ended: " in agent.stderr)
    agent.await_said("debug: job shown: run 1 (execute sh) begins\n")
    assert re.search(
        r"debug: job shown: run 1 \(execute sh\) ended: ERROR, exit code 3, after \d+\.\d s\n", agent.stderr
    )
    assert "quiet" not in agent.stderr
    wait_until(lambda: agent.rows("jobid = 'agent' AND level = 11"), what="a line of level 11")
    agent.config.write_text(text.replace("[main]", '[main]\nverbosity = "error"'))
    os.kill(agent.pid, signal.SIGHUP)
    wait_until(lambda: 'main.verbosity: "debug" -> "error"' in agent.stderr)
    assert agent.stop() == 0
    assert "stopping" not in agent.stderr
