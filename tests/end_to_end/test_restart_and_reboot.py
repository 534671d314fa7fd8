"""``restart`` and ``reboot`` as commands: they answer, then act (protocol 9, 13.1)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.agents import StartAgent, configuration
from tests.support.commands import shell
from tests.support.job_lives import answer_of
from tests.support.processes import ROOT
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def test_restart_answers_and_comes_back_in_place(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """Defect 4 of the original: restart never answered and flushed nothing."""
    agent = start_agent()
    controller.push(shell("a", "echo before"))
    controller.wait_for_result("a")
    pid = agent.pid
    events = len(controller.events)
    assert answer_of(controller, "restart") is True
    wait_until(lambda: len(controller.events) > events, 20, "the startup event of the new image")
    assert answer_of(controller, "ping") == "pong"
    assert (agent.pid, agent.poll()) == (pid, None)
    wait_until(lambda: agent.pid_file.exists() and agent.pid_file.read_text().strip() == str(pid), what="the pid file")
    assert [row[3] for row in agent.rows("jobid = 'a'")] == ["before"]
    controller.push(shell("b", "echo after"))
    assert controller.wait_for_result("b")["state"] == "SUCCESS"


if os.geteuid() == 0:  # only root can start the agent as somebody who may not reboot

    def test_an_allowed_reboot_answers_first_and_says_what_the_kernel_refuses(
        controller: RecordingController, tmp_path: Path
    ) -> None:
        folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
        os.chown(folder, 65534, 65534)
        config = folder / "greenagent.toml"
        config.write_text(configuration(folder, {"main": controller.url}, main="allow_reboot = true"))
        # Imported as root, since nobody may not read every place an environment can lie in; run as nobody.
        program = (
            "import codecs, locale, os, sys; from greenagent.cli.agent import __main__ as agent, run; "
            "import gevent.resolver.thread; codecs.lookup('utf-8-sig'); codecs.lookup('idna'); "
            "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534); "
            "sys.exit(agent.main(sys.argv[1:]))"
        )
        with (folder / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-c", program, "-c", str(config)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)},
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )
        try:
            wait_until(lambda: controller.polls or process.poll() is not None, 20, "the first poll")
            assert process.poll() is None, (folder / "stderr").read_text()
            status = Path(f"/proc/{process.pid}/status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines())
            assert "0" not in fields["Uid"].split(), "never as root: it would reboot this machine"
            assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
            assert answer_of(controller, "reboot") is True
            wait_until(lambda: process.poll() is not None, 20, "the end")
            assert process.poll() == 1
            assert "cannot reboot this machine: Operation not permitted" in (folder / "stderr").read_text()
        finally:
            if process.poll() is None:
                process.kill()
            subprocess.check_call(["rm", "-r", str(folder)])
