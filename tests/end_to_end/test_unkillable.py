"""What cannot be ended is named, and its slot is free."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.agents import StartAgent
from tests.support.commands import execute, shell
from tests.support.job_lives import ask, running_pids, words
from tests.support.processes import ROOT, is_running
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

if os.geteuid() == 0:  # nobody else can lose the right to signal a child

    def test_a_kill_names_the_pids_that_would_not_die_and_the_slot_is_free(
        controller: RecordingController, start_agent: StartAgent, tmp_path: Path
    ) -> None:
        """The agent is without CAP_KILL, and the job becomes another user: nothing can end it."""
        hook = tmp_path / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(
            "import ctypes, struct, sys\n"
            "if 'greenagent.cli.agent' in ' '.join(sys.orig_argv):\n"
            "    libc = ctypes.CDLL(None)\n"
            "    libc.prctl(24, 5, 0, 0, 0)\n"  # CAP_KILL out of the bounding set: no child gets it back
            "    header = ctypes.create_string_buffer(struct.pack('=Ii', 0x20080522, 0))\n"
            "    data = ctypes.create_string_buffer(24)\n"
            "    assert libc.capget(header, data) == 0\n"
            "    words = list(struct.unpack('=6I', data.raw))\n"
            "    words[:3] = [word & ~(1 << 5) for word in words[:3]]\n"
            "    assert libc.capset(header, ctypes.create_string_buffer(struct.pack('=6I', *words))) == 0\n"
        )
        agent = start_agent(python_path=f"{hook}:{ROOT}", max_jobs=1, kill_grace=0.2)
        pids = tmp_path / "pids"
        program = (
            "import os, time\n"
            f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
            "os.setresuid(65534, 65534, 65534)\n"
            "print('ready', flush=True)\n"
            "time.sleep(1000)\n"
        )
        try:
            controller.push(execute("stuck", "python3", "-c", program))
            wait_until(lambda: agent.rows("jobid = 'stuck' AND data = 'ready'"), what="the job")
            result = ask(controller, "kill", {"id": "stuck"}, 30)
            [pid] = words(pids)
            assert result["state"] == "ERROR"
            assert pid in result["data"]
            left = f"could not be ended: {pid} (python3, not permitted)"
            killed = controller.wait_for_result("stuck", 20)
            assert (killed["state"], killed["data"]) == ("KILLED", left)
            assert f"job stuck: {left}" in agent.stderr
            controller.push(shell("next", "true"))
            assert controller.wait_for_result("next", 20)["state"] == "SUCCESS", "its slot is free"
            assert is_running(int(pid))
        finally:
            for number in running_pids(pids):
                os.kill(number, 9)
