"""Starting children: what they get, what they cannot, and every reason why one does not start."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import gevent
import pytest

from greenagent.process.program import Launcher
from greenagent.process.spawn import Spawner, SpawnError, SpawnRequest
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.descriptors import close_descriptor
from greenagent.runtime.native import native_sleep
from tests.support.children import PATH, close_pipes
from tests.support.processes import is_running, zombies_of
from tests.support.waiting import wait_until


@pytest.mark.parametrize("code", [0, 1, 3, 127, 255])
def test_exit_code(start, finish, code):
    ended = finish(start("sh", "-c", f"exit {code}"))
    assert (ended.status.code, ended.status.signal) == (code, None)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGSEGV", "SIGRTMIN+3"])
def test_signal_name(start, finish, name):
    ended = finish(start("bash", "-c", f"kill -s {name} $$; sleep 60"))
    assert (ended.status.code, ended.status.signal) == (None, name)


def test_three_hundred_at_once_with_every_exit_code_right(start, finish):
    wanted = [number % 250 for number in range(300)]
    runs = [gevent.spawn(lambda code=code: finish(start("sh", "-c", f"exit {code}")).status.code) for code in wanted]
    gevent.joinall(runs, timeout=200)
    assert [run.value for run in runs] == wanted


def test_child_gets_its_words_and_its_environment_alone(start, finish):
    ended = finish(start("python3", "-c", "import sys; print(sys.argv[1:])", "a b", "", "é*$HOME", env={"X": "1=2"}))
    assert ended.stdout.decode().strip() == str(["a b", "", "é*$HOME"])
    assert finish(start("env", env={"X": "1=2", "É": "ü"})).stdout.decode().splitlines() == ["X=1=2", "É=ü"]
    assert finish(start("sh", "-c", "echo $0")).stdout == b"sh\n"


def test_working_directory_and_executable_inside_it(start, finish, tmp_path):
    program = tmp_path / "bin" / "hello"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\npwd\n")
    program.chmod(0o755)
    assert finish(start("pwd", directory=str(tmp_path))).stdout.decode().strip() == str(tmp_path)
    assert finish(start("bin/hello", directory=str(tmp_path))).stdout.decode().strip() == str(tmp_path)
    relative = os.path.relpath(program.parent)
    assert finish(start("./hello", directory=relative)).stdout.decode().strip() == str(program.parent)
    assert finish(start("./hello", directory=str(program.parent))).stdout.decode().strip() == str(program.parent)


def test_child_leads_a_session_and_a_group_of_its_own(start):
    child = start("sleep", "60")
    assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid
    assert child.start_ticks > 0
    close_pipes(child)


def test_child_has_no_signal_blocked_or_ignored(start, finish):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        text = finish(start("grep", "-E", "SigBlk|SigIgn", "/proc/self/status")).stdout.decode()
    finally:
        signal.signal(signal.SIGHUP, before)
    blocked, ignored = (int(line.split()[1], 16) for line in text.splitlines())
    internal = 1 << 31 | 1 << 32  # glibc ignores 32 and 33 in every child; no program can use them
    assert (blocked, ignored & ~internal) == (0, 0)
    ended = finish(start("bash", "-c", "yes | head -1; echo ${PIPESTATUS[0]}"))
    assert ended.stdout == b"y\n141\n"


def test_child_inherits_no_descriptor(start, spawner, finish):
    text = finish(start("ls", "/proc/self/fd")).stdout.decode().split()
    assert text == ["0", "1", "2", "3"]  # 3 is the listing's own


def test_descriptors_the_agent_was_started_with_stay_its_own(finish):
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    spawner = Spawner(AgentLog(None), PATH)
    spawner.start()
    try:
        ended = finish(spawner.spawn(SpawnRequest("ls", ("/proc/self/fd",))))
    finally:
        spawner.stop()
        close_descriptor(inherited)
    assert ended.stdout.split() == [b"0", b"1", b"2", b"3"]


def refusal(start, *words: str, **keys: object) -> SpawnError:
    with pytest.raises(SpawnError) as caught:
        start(*words, **keys)
    assert "\n" not in caught.value.reason
    return caught.value


def test_missing_executables(start, tmp_path):
    for word in ("no-such-program", "/no/such/program", "./none", ""):
        error = refusal(start, word, directory=str(tmp_path))
        assert error.missing
        assert not error.temporary
    assert PATH in refusal(start, "no-such-program").reason
    assert "no such file or directory" in refusal(start, "/no/such/program").reason
    assert str(tmp_path) in refusal(start, "./none", directory=str(tmp_path)).reason


def test_what_cannot_be_executed(start, tmp_path):
    plain, nonsense, lost = tmp_path / "plain", tmp_path / "nonsense", tmp_path / "lost"
    plain.write_text("#!/bin/sh\n")
    nonsense.write_bytes(b"\x01\x02\x03")
    lost.write_text("#!/no/such/interpreter\n")
    nonsense.chmod(0o755)
    lost.chmod(0o755)
    for path, words in (
        (plain, "not executable"),
        (tmp_path, "is a directory"),
        (nonsense, "neither a program nor a script"),
        (lost, "interpreter"),
    ):
        error = refusal(start, str(path))
        assert words in error.reason
        assert str(path) in error.reason
        assert error.missing


def test_an_interpreter_that_is_not_there_is_named_with_the_line_end_of_windows(start, tmp_path):
    script = tmp_path / "script"
    script.write_bytes(b"#! /bin/sh\r\necho\r\n")
    script.chmod(0o755)
    reason = refusal(start, str(script)).reason
    assert "interpreter '/bin/sh\\r'" in reason
    assert "CR LF" in reason
    script.write_bytes(b"#!/no/such/interpreter -x\n")
    reason = refusal(start, str(script)).reason
    assert "interpreter '/no/such/interpreter'" in reason
    assert "CR" not in reason


def test_relative_search_path_is_against_the_agents_directory(finish, tmp_path):
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\npwd\n")
    program.chmod(0o755)
    spawner = Spawner(AgentLog(None), f":{os.path.relpath(tmp_path)}")
    spawner.start()
    try:
        assert finish(spawner.spawn(SpawnRequest("tool", directory="/"))).stdout == b"/\n"
    finally:
        spawner.stop()


def test_a_program_that_is_found_but_not_executable_is_named(tmp_path):
    (tmp_path / "tool").write_text("")
    spawner = Spawner(AgentLog(None), f"{tmp_path}:/usr/bin")
    spawner.start()
    try:
        error = refusal(lambda word: spawner.spawn(SpawnRequest(word)), "tool")
    finally:
        spawner.stop()
    assert str(tmp_path / "tool") in error.reason
    assert error.missing


def test_missing_working_directory(start, tmp_path):
    error = refusal(start, "true", directory=str(tmp_path / "gone"))
    assert f"working directory '{tmp_path / 'gone'}'" in error.reason
    assert not error.missing
    (tmp_path / "file").write_text("")
    assert "not a directory" in refusal(start, "true", directory=str(tmp_path / "file")).reason


def test_words_the_system_cannot_take(start):
    assert "argument 2 contains a NUL" in refusal(start, "echo", "a", "b\0c").reason
    assert "NUL" in refusal(start, "ec\0ho").reason
    assert "'A'" in refusal(start, "echo", env={"A": "\0"}).reason
    assert "'A=B'" in refusal(start, "echo", env={"A=B": "1"}).reason
    assert "surrogate" in refusal(start, "echo", "\ud800").reason
    assert "NUL" in refusal(start, "echo", directory="/tmp\0").reason
    error = refusal(start, "true", "x" * 3_000_000)
    assert "too long" in error.reason
    assert not error.missing


def test_a_refused_start_leaves_nothing(start, tmp_path):
    nonsense = tmp_path / "nonsense"
    nonsense.write_bytes(b"\x01")
    nonsense.chmod(0o755)
    refusal(start, str(nonsense))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        refusal(start, str(nonsense))
    assert len(os.listdir("/proc/self/fd")) == before
    assert zombies_of(os.getpid()) == []


class SlowLauncher(Launcher):
    """Behaves as an exec from a dead network disk for programs called ``slow``, until released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = False
        self.entered = 0

    def launch(self, start, path):
        if path.endswith(b"/slow"):
            self.entered += 1
            while not self.released:
                native_sleep(0.005)
        return super().launch(start, path)


@pytest.fixture
def slow_spawner(tmp_path):
    launcher = SlowLauncher()
    (tmp_path / "slow").symlink_to("/bin/sleep")
    spawner = Spawner(AgentLog(None), f"{tmp_path}:{PATH}", launcher)
    spawner.start()
    yield spawner, launcher
    launcher.released = True
    wait_until(lambda: not spawner.children.live(), what="the end of every child")
    spawner.stop()


def test_blocked_starts_block_nobody_else(slow_spawner, finish):
    spawner, launcher = slow_spawner
    stuck = [gevent.spawn(spawner.spawn, SpawnRequest("slow", ("0",))) for _ in range(3)]
    wait_until(lambda: launcher.entered >= 2, what="two blocked threads")
    with gevent.Timeout(60):
        assert finish(spawner.spawn(SpawnRequest("true"))).status.code == 0
    launcher.released = True
    gevent.joinall(stuck, timeout=60, raise_error=True)
    for greenlet in stuck:
        assert finish(greenlet.value).status.code == 0


def test_a_start_given_up_leaves_no_process(slow_spawner):
    spawner, launcher = slow_spawner
    waiting = gevent.spawn(spawner.spawn, SpawnRequest("slow", ("600",)))
    wait_until(lambda: launcher.entered, what="the start")
    waiting.kill()
    before = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    launcher.released = True
    gevent.sleep(0)
    wait_until(lambda: not spawner.children.live() and not spawner.children.reaper.is_starting, what="the clean end")
    new = {int(name) for name in os.listdir("/proc") if name.isdigit()} - before
    assert not [pid for pid in new if is_running(pid) and b"slow" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_nothing_is_left_after_five_hundred_jobs(start, finish, spawner):
    finish(start("true"))
    before = len(os.listdir("/proc/self/fd"))

    def worker() -> None:
        for _ in range(25):
            assert finish(start("true"), b"data").status.code == 0

    gevent.joinall([gevent.spawn(worker) for _ in range(20)], raise_error=True)
    assert len(os.listdir("/proc/self/fd")) == before
    assert zombies_of(os.getpid()) == []
    assert spawner.children.reaper.own == {}


if os.geteuid() == 0:  # nobody else can become another user

    def test_a_program_that_runs_as_another_user_opens_its_streams_by_name(start, finish):
        script = "read line </dev/stdin; echo $line >/dev/stdout; echo err >/dev/stderr"
        become = "import os; os.setgroups([]); os.setresuid(65534, 65534, 65534); os.execv('/bin/sh', ['sh', '-c', %r])"
        ended = finish(start("python3", "-c", become % script), b"in\n")
        assert (ended.stdout, ended.stderr) == (b"in\n", b"err\n")
