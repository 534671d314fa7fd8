"""Commands in, results out: real agent, real processes, real HTTP."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from greenagent.jobs.commands import Answer
from tests.support.agents import configuration
from tests.support.commands import built_in, execute, shell
from tests.support.inside import InsideAgent, StartInside
from tests.support.job_lives import tagged_processes
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def test_an_echo_with_every_key_of_the_result(controller: RecordingController, start_agent: StartInside) -> None:
    start_agent()
    command = execute("one", "echo", "hello", domain="d", loglevels="*", unknown="x", env=["A=b"])
    controller.push({**command, "tags": "a tag", "role": "", "surplus": 1})
    before = time.time() * 1000 - 60_000
    result = controller.wait_for_result("one")
    assert before < result.pop("starttime") < time.time() * 1000
    assert 0 <= result.pop("time") < 60_000
    assert result == {
        "id": "one",
        "gid": 1,
        "nid": 10,
        "cmd": "execute",
        "args": {"name": "echo", "args": ["hello"], "domain": "d", "loglevels": "*", "stats_interval": 60},
        "data": "",
        "level": 0,
        "state": "SUCCESS",
        "streams": ["hello\n", ""],
        "tags": "a tag",
        "exit_code": 0,
        "signal": None,
        "lines": {},
    }
    assert controller.posts[-1].headers["User-Agent"].startswith("greenagent/")


def test_the_poll_carries_roles_and_the_startup_event_comes_first(
    controller: RecordingController, start_agent: StartInside
) -> None:
    start_agent(roles=["web", "db"])
    poll = controller.wait_for_poll()
    assert (poll.gid, poll.nid, poll.roles) == (1, 10, ["web", "db"])
    assert controller.events == [{"name": "startup"}]


def test_the_startup_event_comes_again_after_an_outage(
    controller: RecordingController, start_agent: StartInside
) -> None:
    agent = start_agent()
    controller.wait_for_poll()
    controller.stop()
    wait_until(lambda: "will be tried again" in agent.stderr, what="the outage is said")
    controller.start()
    wait_until(lambda: len(controller.events) == 2, what="the second startup event")


@pytest.mark.parametrize("key", ["cmd", "name"])
def test_the_command_stands_under_cmd_or_as_the_seed_prints_it_under_name(
    controller: RecordingController, start_agent: StartInside, key: str
) -> None:
    start_agent()
    controller.push({"id": "p", key: "ping"})
    assert controller.wait_for_result("p")["data"] == '"pong"'


def test_result_levels_critical_and_both_streams(controller: RecordingController, start_agent: StartInside) -> None:
    start_agent()
    script = (
        "echo out; echo err >&2; echo '9::bad'; echo '9::worse'; echo '20::1'; "
        'printf \'20:::{"a":\\n1}\\n:::\\n\'; printf "no newline"'
    )
    controller.push(shell("r", script))
    result = controller.wait_for_result("r")
    assert (result["state"], result["level"], result["data"]) == ("SUCCESS", 20, '{"a":\n1}')
    assert result["critical"] == "worse"
    assert result["streams"] == ["out\nno newline\n", "err\n"]


def test_a_failing_job(controller: RecordingController, start_agent: StartInside) -> None:
    start_agent()
    controller.push(shell("f", "echo why >&2; exit 3"))
    result = controller.wait_for_result("f")
    assert (result["state"], result["exit_code"], result["signal"]) == ("ERROR", 3, None)
    assert result["streams"] == ["", "why\n"]


def test_a_job_that_dies_of_a_signal(controller: RecordingController, start_agent: StartInside) -> None:
    start_agent()
    controller.push(shell("s", "kill -SEGV $$"))
    result = controller.wait_for_result("s")
    assert (result["state"], result["exit_code"], result["signal"]) == ("ERROR", None, "SIGSEGV")


def test_an_executable_that_is_not_there(controller: RecordingController, start_agent: StartInside) -> None:
    start_agent()
    controller.push(execute("m", "no-such-program"))
    result = controller.wait_for_result("m")
    assert result["state"] == "ERROR"
    assert "no-such-program" in result["data"]
    assert "streams" not in result
    assert result["exit_code"] is None


def test_stdin_is_fed_while_output_is_read(controller: RecordingController, start_agent: StartInside) -> None:
    """Defect 33 of the original: large data blocked a child that writes before it reads."""
    start_agent()
    controller.push(execute("c", "sh", "-c", "seq 1 50000; wc -c", data="é" * 500_000))
    result = controller.wait_for_result("c", 20)
    assert result["streams"][0].splitlines()[-1].strip() == "1000000"


def test_data_nobody_reads_does_not_hold_the_job(controller: RecordingController, start_agent: StartInside) -> None:
    start_agent()
    controller.push(execute("t", "true", data="x" * 5_000_000))
    assert controller.wait_for_result("t")["state"] == "SUCCESS"


def test_environment_and_working_directory(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
    agent = start_agent()
    where = tmp_path / "somewhere"
    where.mkdir()
    controller.push(execute("e", "env", env=["A=1", "HOME=/h", "GREENAGENT_JOB=forged"], working_dir=str(where)))
    controller.push(execute("w", "pwd", working_dir=str(where)))
    variables = dict(line.split("=", 1) for line in controller.wait_for_result("e")["streams"][0].splitlines())
    assert variables["A"] == "1"
    assert variables["HOME"] == "/h"
    assert variables["AGENT_GID"] == "1"
    assert variables["AGENT_NID"] == "10"
    assert variables["AGENT_HOME"] == str(agent.folder)
    assert variables["AGENT_CONTROLLER_URL"] == controller.url
    assert variables["AGENT_CONTROLLER_NAME"] == "main"
    assert variables["AGENT_CONTROLLER_CA"] == ""
    assert variables["PATH"] == os.environ["PATH"]
    assert variables["GREENAGENT_JOB"].split(":")[1:3] == ["e", "1"]
    assert "SECRET_OF_THE_AGENT" not in variables
    assert controller.wait_for_result("w")["streams"][0] == f"{where}\n"


@pytest.mark.parametrize(
    "output",
    ["yes \"$(printf '%0200d' 7)\" | head -n 1000", "printf '20::'; yes x | tr -d '\\n' | head -c 200000; echo"],
)
def test_a_result_that_its_controller_does_not_take_still_ends_the_job_there(
    controller: RecordingController, start_agent: StartInside, output: str
) -> None:
    controller.reject_larger(64 * 1024)
    agent = start_agent()
    controller.push(shell("big", f"{output}; exit 3"))
    result = controller.wait_for_result("big")
    assert (result["state"], result["exit_code"], result["truncated"]) == ("ERROR", 3, True)
    note = "left out: the controller refused the whole result (status 413), greenagent-logs outbox has it on 1:10"
    assert result["data"] == note
    assert result["streams"] in ([f"{note}\n", ""], ["", ""])
    agent.await_said("the result of job big, which is sent without its output (status 413): set aside")


def test_a_kill_of_a_job_whose_result_was_refused_delivers_its_end(
    controller: RecordingController, start_agent: StartInside
) -> None:
    agent = start_agent()
    controller.reject('"odd"', 422)
    controller.push(execute("odd", "true"))
    wait_until(lambda: len(controller.refused_posts) == 2, what="the refusal of the result, and of the shorter one")
    wait_until(lambda: "odd" not in agent.agent.admission.live, what="its end")
    controller.behave()
    controller.push(built_in("k", "kill", json.dumps({"id": "odd"})))
    told = controller.wait_for_result("k")
    assert (told["state"], told["data"]) == ("ERROR", "job 'odd' had ended before: its result is sent once more")
    assert controller.wait_for_result("odd")["state"] == "SUCCESS"
    controller.push(built_in("l", "kill", json.dumps({"id": "odd"})))
    assert "there is no job with the id 'odd'" in controller.wait_for_result("l")["data"]


@pytest.mark.parametrize(
    ("setting", "hand_over", "runs"), [("auto", False, 3), ("auto", True, 1), ("true", True, 3), ("false", False, 1)]
)
def test_a_command_equal_to_one_that_has_ended_runs_again_as_its_controller_is_used_to(
    controller: RecordingController, tmp_path: Path, setting: str, hand_over: bool, runs: int
) -> None:
    value = setting if setting != "auto" else '"auto"'
    text = configuration(tmp_path, {"main": controller.url}).replace("rerun_ended = false", f"rerun_ended = {value}")
    controller.hand_over = hand_over
    command = shell("j", f"echo ran >> {tmp_path}/runs")
    with InsideAgent(tmp_path, {}, text):
        for count in (1, 2):
            controller.push(command)
            wait_until(lambda count=count: len(controller.results_of("j")) == count, what=f"result {count}")
    with InsideAgent(tmp_path, {}, text):  # what was seen of the controller is remembered
        controller.hand_over = False
        controller.push(command)
        wait_until(lambda: len(controller.results_of("j")) == 3, what="the third result")
    assert (tmp_path / "runs").read_text().split() == ["ran"] * runs


def test_variables_for_all_jobs_stand_below_those_of_the_caller(
    controller: RecordingController, start_agent: StartInside
) -> None:
    agent = start_agent(main='env = {LANG = "C.UTF-8", TZ = "UTC", HOME = "/h", GREENAGENT_JOB = "x"}')
    controller.push(execute("e", "env", env=["TZ=CET"]))
    variables = dict(line.split("=", 1) for line in controller.wait_for_result("e")["streams"][0].splitlines())
    assert (variables["LANG"], variables["TZ"], variables["HOME"]) == ("C.UTF-8", "CET", "/h")
    assert variables["GREENAGENT_JOB"].split(":")[1:3] == ["e", "1"]
    agent.agent.reload(agent.settings({"main": controller.url}, main='env = {LANG = "de_DE.UTF-8"}'))
    controller.push(execute("f", "env"))
    variables = dict(line.split("=", 1) for line in controller.wait_for_result("f")["streams"][0].splitlines())
    assert (variables["LANG"], "TZ" in variables) == ("de_DE.UTF-8", False)


def test_max_time_ends_the_whole_group(controller: RecordingController, start_agent: StartInside) -> None:
    agent = start_agent()
    controller.push(shell("t", "echo $$; sleep 1000 & echo $!; wait", max_time=1))
    result = controller.wait_for_result("t")
    assert result["state"] == "TIMEOUT"
    pids = result["streams"][0].split()  # both, unless the machine took the second to start the shell
    assert tagged_processes(agent.folder) == []
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_job_that_ignores_term_is_killed_after_the_grace(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    start_agent(kill_grace=0.3)
    armed = tmp_path / "armed"
    controller.push(shell("k", f"trap '' TERM; touch {armed}; while :; do sleep 0.1; done"))
    wait_until(armed.exists, what="the trap")
    controller.push(built_in("killer", "kill", json.dumps({"id": "k"})))
    killer = controller.wait_for_result("killer")
    assert (killer["state"], killer["level"], killer["data"]) == ("SUCCESS", 20, "true")
    result = controller.wait_for_result("k")
    assert (result["state"], result["signal"]) == ("KILLED", "SIGKILL")


def test_kill_of_an_unknown_id_is_an_error_that_names_it(
    controller: RecordingController, start_agent: StartInside
) -> None:
    """Defect 20 of the original: it reported SUCCESS."""
    start_agent()
    controller.push(built_in("k", "kill", json.dumps({"id": "nobody"})))
    result = controller.wait_for_result("k")
    assert result["state"] == "ERROR"
    assert "nobody" in result["data"]


def test_max_jobs_holds_and_ping_is_answered_meanwhile(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    """Defect 29 of the original: a full agent was deaf."""
    start_agent(max_jobs=2)
    gate = tmp_path / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.05; done"
    for number in range(4):
        controller.push(shell(f"j{number}", f"touch {tmp_path}/started{number}; {wait}"))
    controller.push(built_in("p", "ping"))
    assert controller.wait_for_result("p")["data"] == '"pong"'
    wait_until(lambda: len(list(tmp_path.glob("started*"))) == 2, what="two running jobs")
    controller.push(built_in("k", "kill", json.dumps({"id": "j3"})))
    assert controller.wait_for_result("k")["state"] == "SUCCESS"
    assert controller.wait_for_result("j3")["state"] == "KILLED"
    assert sorted(path.name for path in tmp_path.glob("started*")) == ["started0", "started1"]
    wait_until(
        lambda: controller.polls[-1].headers.get("Greenagent-Free-Slots") == "0", what="a poll that tells of no slot"
    )
    gate.touch()
    for number in range(3):
        assert controller.wait_for_result(f"j{number}")["state"] == "SUCCESS"


def test_twenty_sleeping_jobs_finish_together(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    start_agent()
    gate = tmp_path / "gate"
    for number in range(20):
        script = f"touch {tmp_path}/started{number}; while [ ! -e {gate} ]; do sleep 0.2; done"
        controller.push(shell(f"s{number}", script))
    wait_until(lambda: len(list(tmp_path.glob("started*"))) == 20, what="all of them at once")
    gate.touch()
    results = [controller.wait_for_result(f"s{number}", 30) for number in range(20)]
    # All overlapped: the last started before the first ended.
    assert max(result["starttime"] for result in results) < min(
        result["starttime"] + result["time"] for result in results
    )


def test_an_unknown_command(controller: RecordingController, start_agent: StartInside) -> None:
    start_agent()
    controller.push(built_in("u", "no_such_command"))
    result = controller.wait_for_result("u")
    assert (result["state"], result["level"], result["starttime"]) == ("UNKNOWN_CMD", 0, 0)
    controller.push(built_in("v", "pnig"))
    told = controller.wait_for_result("v")["data"]
    assert told.startswith("there is no command 'pnig' here, did you mean 'ping'? (there are bash, del_msgs, execute, ")


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b'{"id": "x", "cmd": "execute", "data": 7}', "data"),
        (b'{"id": "x", "cmd": 7}', "cmd"),
        (b'{"id": "x", "cmd": "execute", "args": []}', "args"),
        (b'{"id": "x", "cmd": "execute", "args": {"name": "true", "loglevels": "bogus"}}', "loglevels"),
        (b'{"id": "x", "cmd": "execute", "args": {"name": "true", "loglevels_ac": "5-1"}}', "reversed"),
        (b'{"id": "x", "cmd": "execute"}', "name"),
        (b'{"id": "x", "cmd": "execute", "args": {"name": "a\\u0000b"}}', "NUL"),
        (b'{"id": "x", "cmd": "execute", "gid": "one"}', "gid"),
    ],
)
def test_a_command_that_cannot_be_understood_is_answered(
    controller: RecordingController, start_agent: StartInside, body: bytes, part: str
) -> None:
    """Defect 6 of the original: such commands vanished."""
    start_agent()
    controller.push(body)
    result = controller.wait_for_result("x")
    assert result["state"] == "ERROR"
    assert part in result["data"]


def test_rubbish_without_an_id_is_said_and_the_next_command_runs(
    controller: RecordingController, start_agent: StartInside
) -> None:
    agent = start_agent()
    controller.push(b"rubbish")
    controller.push(b"[" * 100_000)
    controller.push(b'{"cmd": "ping"}')
    controller.push(built_in("p", "ping"))
    assert controller.wait_for_result("p", 30)["state"] == "SUCCESS"
    assert agent.stderr.count("a command is refused") == 3


def test_the_same_id_again_while_it_lives(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    start_agent()
    gate = tmp_path / "gate"
    command = shell("d", f"while [ ! -e {gate} ]; do sleep 0.05; done")
    controller.push(command)
    controller.push(command)
    controller.push(execute("d", "sleep", "2"))
    duplicate = controller.wait_for_result("d")
    assert (duplicate["state"], duplicate["data"]) == ("DUPILICATE_ID", "A job exists with the same ID")
    gate.touch()
    wait_until(lambda: len(controller.results_of("d")) == 2, what="the job's own result")
    assert controller.results_of("d")[1]["state"] == "SUCCESS"


def test_the_same_command_after_its_end_is_answered_not_run(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    start_agent()
    command = shell("again", f"echo x >> {tmp_path}/runs")
    controller.push(command)
    first = controller.wait_for_result("again")
    controller.push(command)
    wait_until(lambda: len(controller.results_of("again")) == 2, what="the stored result again")
    assert controller.results_of("again")[1] == first
    controller.push(shell("again", f"echo y >> {tmp_path}/runs"))
    wait_until(lambda: len(controller.results_of("again")) == 3, what="the different command's result")
    assert (tmp_path / "runs").read_text() == "x\ny\n"


def test_an_extension(controller: RecordingController, start_agent: StartInside, tmp_path: Path) -> None:
    folder = tmp_path / "scripts" / "cat"
    folder.mkdir(parents=True)
    (folder / "show.sh").write_text('echo "$0 $1 $COLOUR $SIZE $PWD"')
    more = f"""
[extensions.show]
binary = "sh"
cwd = "{tmp_path}/scripts"
args = ["{{domain}}/{{name}}.sh"]
[extensions.show.env]
COLOUR = "red"
"""
    start_agent(more=more)
    command = execute("x", "show", "extra", cmd="show", domain="cat", env=["COLOUR=blue", "SIZE=big"])
    controller.push(command)
    result = controller.wait_for_result("x")
    assert result["streams"][0] == f"cat/show.sh extra red big {tmp_path}/scripts\n"
    assert result["cmd"] == "show"
    controller.push({"id": "y", "cmd": "show", "args": {"name": "show"}})
    missing = controller.wait_for_result("y")
    assert missing["state"] == "ERROR"
    assert "'domain'" in missing["data"]
    controller.push({"id": "z", "cmd": "show", "args": {"name": "../../x", "domain": "cat"}})
    climbing = controller.wait_for_result("z")
    assert climbing["state"] == "ERROR"
    assert "args.name" in climbing["data"]


def test_streams_of_a_result_are_the_last_mebibyte_of_each(
    controller: RecordingController, start_agent: StartInside
) -> None:
    agent = start_agent()
    line = "x" * 9_000
    controller.push(shell("long", f"for n in $(seq 100 599); do echo ${{n}}{line}; echo ${{n}}{line} >&2; done"))
    result = controller.wait_for_result("long")
    whole = (1024 * 1024) // len(f"100{line}\n")
    expected = "".join(f"{number}{line}\n" for number in range(600 - whole, 600))
    assert result["streams"] == [expected, expected]
    wait_until(lambda: len(agent.rows("jobid = 'long'")) == 1000, what="all of it in the log")


def test_of_a_line_beyond_a_mebibyte_the_last_piece_is_in_the_result(
    controller: RecordingController, start_agent: StartInside
) -> None:
    agent = start_agent()
    # Cut at max_line, 1 MiB, into two messages: only the second is whole within the limit.
    controller.push(shell("long", "head -c 1500000 /dev/zero | tr '\\0' x; echo end; echo error >&2"))
    result = controller.wait_for_result("long")
    assert result["streams"] == ["x" * (1_500_000 - 1024 * 1024) + "end\n", "error\n"]
    wait_until(lambda: agent.rows("jobid = 'long' AND level = 2"), what="all of it in the log")
    wait_until(
        lambda: sum(len(text) for *_, text in agent.rows("jobid = 'long' AND level = 1")) == 1_500_003,
        what="each character of it",
    )
    controller.push(shell("full", f"head -c {1024 * 1024} /dev/zero | tr '\\0' x; echo"))
    assert controller.wait_for_result("full")["streams"] == ["x" * (1024 * 1024 - 1) + "\n", ""]


def test_a_result_that_the_spool_cannot_take_is_replaced_by_an_error(
    controller: RecordingController, tmp_path: Path
) -> None:
    """Its controller would hear nothing before the next start, which would call the job cut off."""
    with InsideAgent(tmp_path, {"main": controller.url}) as inside:
        commands = inside.agent.commands
        commands.built_ins = {**commands.built_ins, "ping": lambda command: Answer("\ud800")}
        controller.push(built_in("j", "ping"))
        result = controller.wait_for_result("j")
        assert result["state"] == "ERROR"
        assert result["data"].startswith("internal error of the agent: UnicodeEncodeError")
        wait_until(lambda: not inside.agent.spool.unfinished(), what="its end in the spool")
    assert "internal error in job j: UnicodeEncodeError" in inside.stderr


def test_in_a_removed_working_folder_jobs_go_on_and_health_names_it(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = start_agent()
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    controller.push(shell("repeats", "echo beat", recurring_period=1))
    controller.push(execute("restarts", "./relative", max_restart=1))
    controller.push({"id": "script", "cmd": "jumpscript", "args": {"domain": "d", "name": "n"}})
    assert controller.wait_for_result("script")["data"] == f"there is no script {gone}/scripts/d/n.py"
    wait_until(lambda: len(agent.rows("jobid = 'repeats'")) >= 2, what="another run")
    assert "folder that the agent was started in" in controller.wait_for_result("restarts")["data"]
    assert f"started in, {gone}, was removed" in agent.agent.monitoring.status.health()


def test_a_message_that_is_never_ended_is_said_with_its_level(
    controller: RecordingController, start_agent: StartInside
) -> None:
    """It takes all that follows, which looks like output that was lost."""
    agent = start_agent()
    controller.push(shell("open", "echo 7:::first; echo second; echo 20::{}"))
    controller.push(shell("closed", "echo 7:::first; echo second; echo :::"))
    controller.push(shell("as the originals' module", "printf '20:::{}\\n:::'"))
    results = [controller.wait_for_result(job) for job in ("open", "closed", "as the originals' module")]
    assert [result["data"] for result in results] == ["", "", "{}"]
    agent.stop()
    begun = "greenagent: a message of level 7 was begun and not ended by a line ':::'"
    said = f"{begun}: all that came behind it is part of it"
    assert [row[2:] for row in agent.rows("jobid = 'open'")] == [(7, "first\nsecond\n20::{}"), (7, said)]
    assert [row[2:] for row in agent.rows("jobid = 'closed'")] == [(7, "first\nsecond")]
    assert [row[2] for row in agent.rows("jobid like 'as%'")] == [20]
