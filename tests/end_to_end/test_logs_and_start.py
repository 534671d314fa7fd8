"""Lines to the database, the controllers and the console; start, stop, crash and startup tasks."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.support.agents import AgentProcess, StartAgent
from tests.support.commands import built_in, execute, shell
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
CONSOLE = """
[logging.console]
type = "console"
levels = [4]
[logging.console_too]
type = "console"
levels = [3, 4]
"""


def test_a_hundred_thousand_lines_on_each_stream_while_a_ping_is_answered(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    agent = start_agent()
    controller.push(shell("chatty", "seq 1 100000 & seq 200001 300000 >&2; wait"))
    controller.push(built_in("p", "ping"))
    controller.wait_for_result("p")
    assert controller.wait_for_result("chatty", 60)["state"] == "SUCCESS"
    agent.stop()
    rows = agent.rows("jobid = 'chatty'")
    for level, first in ((1, 1), (2, 200_001)):
        assert [int(data) for _, _, lvl, data in rows if lvl == level] == list(range(first, first + 100_000))
    ids = [row[0] for row in rows]
    assert len(set(ids)) == len(ids)


def test_each_logger_takes_its_levels_and_the_job_may_change_them(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    """Defect 11 of the original: ``loglevels_ac`` was never read."""
    agent = start_agent(more=CONSOLE)
    script = "for level in 1 2 3 4 5; do echo $level::at $level; done"
    controller.push(shell("plain", script))
    controller.push(shell("special", script, loglevels_db="4-5", loglevels_ac="1,5"))
    controller.push(shell("some", script, loglevels="2-3", loglevels_db="*", loglevels_ac="*"))
    for job in ("plain", "special", "some"):
        controller.wait_for_result(job)
    wait_until(lambda: len(controller.logs) >= 5, what="the uploads")
    agent.stop()

    def sent(job: str) -> list[int]:
        return [record["level"] for record in controller.logs if record["jobid"] == job]

    def kept(job: str) -> list[int]:
        return [level for _, _, level, _ in agent.rows("jobid = ?", job)]

    assert (sent("plain"), kept("plain")) == ([2], [1, 2, 3, 4, 5])
    assert (sent("special"), kept("special")) == ([1, 5], [4, 5])
    assert (sent("some"), kept("some")) == ([2, 3], [2, 3])
    shown = agent.stdout.splitlines()
    # The console honours its own levels alone; two consoles print a line each only once on the same stdout.
    assert [line.rpartition("|")[2] for line in shown if "at 4" in line] == ["4:at 4", "4:at 4"]
    assert sorted(re.sub(r"^[-0-9]+ [:0-9]+[+-][0-9]{4} [0-9]+", "", line) for line in shown if "at 4" in line) == [
        "# plain execute sh|4:at 4",
        "# special execute sh|4:at 4",
    ]
    assert [line.rpartition("|")[2] for line in shown if "at 3" in line] == ["3:at 3", "3:at 3", "3:at 3"]


def test_the_agents_own_lines_stay_on_the_machine(controller: RecordingController, start_agent: StartAgent) -> None:
    """They are in the database under job id ``agent``; no controller gets them, also not one that wants every level."""
    more = '[logging.everything]\ntype = "AC"\nflush_int = 1\nlevels = []\n'
    agent = start_agent(more=more)
    controller.push(built_in("u", "no_such_command"))
    controller.wait_for_result("u")
    controller.push(shell("j", "echo out"))
    wait_until(lambda: [record["data"] for record in controller.logs] == ["out"], what="the job's line")
    agent.stop()
    assert any("no_such_command" in data for _, _, _, data in agent.rows("jobid = 'agent'"))
    assert {record["jobid"] for record in controller.logs} == {"j"}


def test_a_record_for_controllers_has_all_its_keys(controller: RecordingController, start_agent: StartAgent) -> None:
    """Defect 12 of the original: the domain was always empty and the job id missing."""
    agent = start_agent()
    controller.push(execute("r", "sh", "-c", "echo oops >&2", domain="shop"))
    wait_until(lambda: controller.logs, what="the upload")
    [record] = controller.logs
    assert {key: record[key] for key in ("jobid", "domain", "name", "level", "data")} == {
        "jobid": "r",
        "domain": "shop",
        "name": "sh",
        "level": 2,
        "data": "oops",
    }
    assert record["epoch"] == record["epoch_ms"] // 1000
    agent.stop()
    assert [row[0] for row in agent.rows("jobid = 'r'")] == [record["id"]]


def test_several_loggers_and_controllers_each_get_theirs(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    """Defect 3 of the original: of several controllers only one got the content."""
    more = """
[logging.errors]
type = "AC"
flush_int = 1
controllers = ["second"]
levels = [8]
"""
    with RecordingController() as second:
        start_agent(controllers={"main": controller.url, "second": second.url}, more=more)
        controller.push(shell("j", "echo two >&2; echo 8::eight; echo one"))
        result = controller.wait_for_result("j")
        wait_until(lambda: len(controller.logs) == 1 and len(second.logs) == 2, what="the uploads")
        assert [record["data"] for record in controller.logs] == ["two"]
        assert sorted(record["data"] for record in second.logs) == ["eight", "two"]
        assert result["state"] == "SUCCESS"
        assert second.results == []


def test_uploads_survive_an_outage_and_kill_minus_nine(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    agent = start_agent(folder=folder)
    controller.wait_for_poll()
    controller.push(shell("j", "seq 1 5000 >&2"))
    result = controller.wait_for_result("j")
    wait_until(lambda: len(agent.rows("jobid = 'j'")) == 5000, what="the lines in the database")
    ids = [row[0] for row in agent.rows("jobid = 'j'")]
    controller.stop()
    agent.kill()
    controller.start()
    start_agent(folder=folder)
    wait_until(lambda: {record["id"] for record in controller.logs} >= set(ids), 20, "all lines")
    # At least once, in order: a batch whose cursor was not stored before the kill comes again as a whole.
    first_seen = list(dict.fromkeys(int(record["data"]) for record in controller.logs))
    assert first_seen == list(range(1, 5001))
    assert result["state"] == "SUCCESS"


def test_a_result_waits_for_its_controller_also_across_kill_minus_nine(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """Defect 1 of the original: a result was posted once."""
    folder = tmp_path / "one"
    agent = start_agent(folder=folder)
    gate = tmp_path / "gate"
    controller.push(shell("j", f"while [ ! -e {gate} ]; do sleep 0.05; done; echo 20::7"))
    wait_until(lambda: controller.waiting_commands == 0, what="the command handed out")
    wait_until(lambda: _ledger_states(folder) == ["running"], what="the job in the ledger")
    controller.stop()
    gate.touch()
    wait_until(lambda: _ledger_states(folder) == ["ended"], what="the job's end")
    agent.kill()
    assert controller.results == []
    controller.start()
    start_agent(folder=folder)
    result = controller.wait_for_result("j")
    assert (result["state"], result["data"]) == ("SUCCESS", "7")


def test_a_job_cut_off_by_kill_minus_nine_is_reported_and_its_orphans_ended(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    agent = start_agent(folder=folder, max_jobs=1)
    pids = tmp_path / "pids"
    controller.push(shell("cut", f"setsid sleep 1000 & echo $! $$ > {pids}; wait"))
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, what="both pids")
    controller.push(execute("waiting", "echo", "later"))
    wait_until(lambda: sorted(_ledger_states(folder)) == ["running", "waiting"], what="the second job in the ledger")
    agent.kill()
    start_agent(folder=folder, max_jobs=1)
    result = controller.wait_for_result("cut")
    assert result["state"] == "ERROR"
    assert "cut off" in result["data"]
    assert controller.wait_for_result("waiting")["streams"] == ["later\n", ""]
    for pid in pids.read_text().split():
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), what="the orphans' end")


def test_sigterm_ends_jobs_reports_them_and_exits_zero(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent()
    up = tmp_path / "up"
    controller.push(shell("j", f"touch {up}; sleep 1000"))
    wait_until(up.exists, what="the job")
    assert agent.stop() == 0
    assert controller.results_of("j")[0]["state"] == "KILLED"
    assert not agent.pid_file.exists()


def test_message_ids_go_on_after_a_stop_and_after_a_crash(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    for round_number, end in enumerate((AgentProcess.stop, AgentProcess.kill, AgentProcess.stop)):
        agent = start_agent(folder=folder)
        controller.push(execute(f"j{round_number}", "echo", str(round_number)))
        controller.wait_for_result(f"j{round_number}")
        wait_until(partial(agent.rows, "jobid = ?", f"j{round_number}"), what="the line")
        end(agent)
    ids = [row[0] for row in agent.rows("1")]
    assert ids == sorted(set(ids))


def test_startup_tasks_run_once_are_logged_and_never_reported(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    more = """
[startup.hello]
name = "execute"
data = "from stdin"
[startup.hello.args]
name = "sh"
args = ["-c", "cat; echo; echo err >&2"]
"""
    agent = start_agent(more=more)
    wait_until(lambda: len(agent.rows("jobid = 'hello'")) == 2, what="the task's lines")
    controller.push(built_in("q", "get_msgs", json.dumps({"jobid": "hello"})))
    result = controller.wait_for_result("q")
    assert result["level"] == 20
    assert sorted(record["data"] for record in json.loads(result["data"])) == ["err", "from stdin"]
    agent.stop()
    assert [found["id"] for found in controller.results] == ["q"]
    assert controller.logs == []


@pytest.mark.parametrize("python2", [True, False])
def test_the_seed_configuration_runs_as_it_stands(start_agent: StartAgent, tmp_path: Path, python2: bool) -> None:
    """On its own port; with a program called python2.7 in PATH, and without."""
    folder = tmp_path / "seed"
    (folder / "python" / "test").mkdir(parents=True)
    (folder / "python" / "test" / "job.py").write_text("echo ran $0")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "sleep"):
        (programs / name).symlink_to(str(shutil.which(name)))
    if python2:
        (programs / "python2.7").symlink_to(str(shutil.which("sh")))
    text = (ROOT / "tests" / "data" / "seed-config.toml").read_text()
    seed = RecordingController(host="localhost")
    if port_is_free("localhost", 8966):
        seed._port = 8966
    else:  # somebody else's controller runs on this machine: all but the port is as it stands
        seed.start()
        seed.stop()
        text = text.replace("localhost:8966", f"localhost:{seed.port}")
    with seed:
        agent = start_agent(folder=folder, text=text, environment={"PATH": str(programs)})
        seed.push({"id": "j", "gid": 1, "nid": 10, "cmd": "do_something", "args": {"name": "job", "domain": "test"}})
        result = seed.wait_for_result("j")
        if python2:
            assert (result["state"], result["streams"]) == ("SUCCESS", ["ran test/job.py\n", ""])
        else:
            assert result["state"] == "ERROR"
            assert "python2.7" in result["data"]
        assert result["cmd"] == "do_something"
        agent.stop()
    assert agent.stderr.count("domaine") == 1
    assert "'domain'" in agent.stderr
    assert "Traceback" not in agent.stderr
    connection = sqlite3.connect(folder / "logs" / "current.db")
    own = [data for (data,) in connection.execute("SELECT data FROM logs WHERE jobid = 'agent'")]
    connection.close()
    assert any("intialize_something" in line for line in own)


def test_a_second_agent_on_the_same_files_is_refused(start_agent: StartAgent, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    first = start_agent(folder=folder)
    second = start_agent(folder=folder, wait=False)
    assert second.wait() == 1
    assert f"in use by process {first.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    assert first.poll() is None


def test_nothing_in_the_agent_forks_and_sigchld_is_not_caught(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    """An audit hook ends the agent on the spot should anything but the spawner start a process."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def hook(event, arguments):\n"
        "    if event in ('os.fork', 'os.forkpty', 'os.posix_spawn', 'subprocess.Popen', 'os.system', 'os.spawn'):\n"
        "        os.write(2, ('AUDIT ' + event + '\\n').encode()); os._exit(99)\n"
        "if 'greenagent.cli.agent' in ' '.join(sys.orig_argv):\n"
        "    sys.addaudithook(hook)\n"
    )
    agent = start_agent(wait=False, python_path=f"{hook}:{ROOT}")
    jobs = [
        shell("a", "echo x"),
        shell("b", "exit 3"),
        built_in("c", "get_processes_stats"),
        built_in("d", "get_aggregated_stats"),
        built_in("e", "get_msgs"),
        execute("f", "no-such-program"),
    ]
    for job in jobs:
        controller.push(job)
    for job in jobs:
        controller.wait_for_result(str(job["id"]), 20)
    caught = int(_status_field(agent.pid, "SigCgt"), 16)
    ignored = int(_status_field(agent.pid, "SigIgn"), 16)
    assert not caught & (1 << (signal.SIGCHLD - 1))
    assert not ignored & (1 << (signal.SIGCHLD - 1))
    assert agent.stop() == 0
    assert "AUDIT" not in agent.stderr


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[main]\ngid = 0\nnid = 1\n", ["[main] gid"]),
        ("[main]\ngid = 1\nnid = 1\nrols = []\n", ["rols", "roles"]),
        ("[main]\ngid = [1, 2\nnid = 1\n", ["greenagent.toml"]),
    ],
)
def test_a_bad_configuration_is_refused_without_a_traceback(
    start_agent: StartAgent, text: str, parts: list[str]
) -> None:
    agent = start_agent(text=text, wait=False)
    assert agent.wait() == 1
    for part in parts:
        assert part in agent.stderr
    assert "Traceback" not in agent.stderr


def test_check_and_print_config(tmp_path: Path) -> None:
    for option in ("--check", "--print-config"):
        done = subprocess.run(
            [sys.executable, "-m", "greenagent.cli.agent", "-c", ROOT / "tests/data/seed-config.toml", option],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert list(tmp_path.iterdir()) == [], "a check leaves no file"
    assert "main.gid = 1  # file" in done.stdout


def port_is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) != 0


def _ledger_states(folder: Path) -> list[str]:
    connection = sqlite3.connect(folder / "history.db")
    try:
        return [state for (state,) in connection.execute("SELECT state FROM job")]
    except sqlite3.Error:
        return []
    finally:
        connection.close()


def _status_field(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return line.split()[1]
    raise AssertionError(name)
