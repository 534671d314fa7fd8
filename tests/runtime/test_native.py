"""Native threads beside the hub: order, back-pressure, transactions, locks, and the agent's own log."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import gevent
import pytest

from greenagent.runtime.agent_log import LineOutput, RateLimitedLog
from greenagent.runtime.files import replace_file
from greenagent.runtime.greenlets import Supervisor
from greenagent.runtime.locks import FileLock, LockedError, lock_holder
from greenagent.runtime.native import NativePool, NativeSignal, NativeWorker
from greenagent.runtime.procfs import boot_id
from greenagent.values.errors import GreenagentError
from tests.support.agent_logs import RecordedLog
from tests.support.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent


def test_a_worker_handles_everything_in_order_and_pushes_back() -> None:
    gate = NativeSignal()
    handled: list[int] = []

    def handle(batch: list[int]) -> None:
        gate.wait()
        gate.set()
        handled.extend(batch)

    worker: NativeWorker[int] = NativeWorker("test", handle, capacity=3)

    def put_all() -> None:
        for number in range(10):
            worker.wait_room()
            worker.put_now(number)

    putter = gevent.spawn(put_all)
    gevent.sleep(0.05)
    assert not putter.ready(), "the fourth item waits for room"
    assert worker.weight <= 3
    gate.set()
    putter.join(60)
    worker.stop()
    assert handled == list(range(10))


def test_a_worker_that_fails_says_so_and_lets_nobody_hang() -> None:
    heard: list[BaseException] = []

    def handle(batch: list[int]) -> None:
        raise ValueError("broken")

    worker: NativeWorker[int] = NativeWorker("test", handle, capacity=1, on_failure=heard.append)
    worker.put_now(1)
    wait_until(lambda: heard, what="the failure")
    assert str(heard[0]) == "broken"
    worker.wait_room()
    with pytest.raises(RuntimeError, match="test has stopped"):
        worker.put_now(2)


def test_a_caller_is_woken_when_the_thread_dies_before_its_turn() -> None:
    hold = NativeSignal()

    def handle(batch: list) -> None:  # type: ignore[type-arg]
        for item in batch:
            item()

    def die() -> None:
        hold.wait()
        raise ZeroDivisionError("no reason")

    worker: NativeWorker = NativeWorker("test thread", handle)
    assert worker.call(lambda: 5) == 5
    with pytest.raises(KeyError):
        worker.call(lambda: {}["x"])
    worker.put_now(die)
    caller = gevent.spawn(worker.call, lambda: 6)
    gevent.sleep(0)
    hold.set()
    with pytest.raises(GreenagentError, match="the test thread has stopped: no reason"):
        caller.get(timeout=60)
    with pytest.raises(GreenagentError, match="the test thread has stopped"):
        worker.call(lambda: 7)


def test_native_threads_leave_signals_to_the_main_thread() -> None:
    masks: list[set[signal.Signals]] = []
    worker: NativeWorker[int] = NativeWorker("test", lambda batch: masks.append(signal.pthread_sigmask(0, ())))
    worker.put_now(1)
    worker.stop()
    pool = NativePool(1)
    masks.append(pool.run(signal.pthread_sigmask, 0, ()))
    pool.close()
    for mask in masks:
        assert {signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP} <= mask


def test_the_pool_raises_what_its_function_raised() -> None:
    pool = NativePool(2)
    assert pool.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        pool.run(divmod, 1, 0)
    pool.close()


def test_a_lock_is_granted_once_and_again_after_its_release(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "x.lock", "the thing"), FileLock(tmp_path / "x.lock", "the thing")
    first.acquire()
    with pytest.raises(LockedError, match=f"the thing is in use by process {os.getpid()}"):
        second.acquire()
    kept = first.duplicate()
    first.release()
    with pytest.raises(LockedError):
        second.acquire()
    os.close(kept)
    second.acquire()
    second.release()


def test_a_lock_keeps_a_note_for_its_next_holder_and_a_copy_of_it_does_not(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "x.lock", "the thing")
    lock.acquire()
    assert lock.note == ""
    lock.leave("note")
    lock.record(12345)
    lock.record(123)
    assert lock_holder(lock.path) == str(os.getpid())
    shutil.copy(lock.path, tmp_path / "y.lock")
    lock.path.unlink()
    lock.renew("was removed")
    lock.release()
    for name, note, number in (("x.lock", "note", 123), ("x.lock", "note", 123), ("y.lock", "", 0)):
        again = FileLock(tmp_path / name, "the thing")
        again.acquire()  # as after kill -9, and once more before the new holder has left a note of its own
        assert (again.note, again.number) == (note, number)
        again.release()
    lock.path.write_text(lock.path.read_text().replace(boot_id(), boot_id()[::-1]))
    lock.acquire()
    assert (lock.note, lock.number) == ("", 123), "no process outlives a boot"
    lock.release()


def test_a_replaced_file_is_never_half_written(tmp_path: Path) -> None:
    path = tmp_path / "f"
    replace_file(path, b"one", 0o600)
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert [part.name for part in tmp_path.iterdir()] == ["f"]


def test_an_output_nobody_reads_blocks_nobody_and_says_what_it_left_out() -> None:
    reading, writing = os.pipe()
    output = LineOutput(writing, "test", limit=1000)
    for number in range(5000):
        output.write(f"line {number} " + "x" * 100)
    received = bytearray()

    def read() -> None:
        while chunk := os.read(reading, 65536):
            received.extend(chunk)

    pool = NativePool(1)
    reader = gevent.spawn(pool.run, read)
    wait_until(lambda: output._worker.weight == 0, what="the output to catch up")
    output.write("after")
    output.close()
    os.close(writing)
    reader.join(60)
    os.close(reading)
    pool.close()
    lines = received.decode().splitlines()
    assert lines[-1] == "after"
    assert any("lines left out here" in line for line in lines)


def test_the_agents_log_writes_single_lines_and_on_change_only_changes() -> None:
    agent_log = RecordedLog()
    agent_log.warning("two\nlines")
    topic = agent_log.on_change()
    for text in ("a", "a", "b", "b"):
        topic.warning(text)
    topic.resolved("fine")
    topic.resolved("fine")
    assert agent_log.lines == ["two lines", "a", "b", "fine"]


def test_a_rate_limited_log_counts_what_it_leaves_out() -> None:
    agent_log = RecordedLog()
    now = 100.0
    limited = RateLimitedLog(agent_log, 2, 60, clock=lambda: now)
    for number in range(5):
        limited.log(8, f"line {number}")
    now = 161.0
    limited.log(8, "later")
    assert agent_log.heard == [
        (8, "line 0"),
        (8, "line 1"),
        (8, "more lines like the last are only counted for up to 60 s"),
        (8, "3 lines like the next were left out"),
        (8, "later"),
    ]


def test_a_service_is_started_again_and_gives_up_after_too_many_deaths() -> None:
    agent_log = RecordedLog()
    fatal: list[str] = []
    supervisor = Supervisor(agent_log, fatal.append, limit=2)
    supervisor.service("broken", lambda: 1 / 0)
    wait_until(lambda: fatal, what="the end")
    assert fatal == ["broken died 2 times in a row"]
    errors = [line for line in agent_log.lines if "internal error in broken: ZeroDivisionError" in line]
    assert len(errors) == 2


def test_errors_outside_greenlets_and_in_destructors_are_one_line_each() -> None:
    program = """
from greenagent.runtime.patch import patch
patch()
import gevent
from greenagent.runtime.greenlets import log_hub_errors
from greenagent.runtime.agent_log import RateLimitedLog, LineOutput, AgentLog
output = LineOutput(2, "agent_log")
log_hub_errors(AgentLog(output))
class Bad:
    def __del__(self):
        raise ValueError("in a\\ndestructor")
Bad()
gevent.get_hub().loop.run_callback(lambda: 1 / 0)
gevent.sleep(0.01)
output.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    lines = sorted(line.split(" ", 2)[2] for line in done.stderr.splitlines())
    assert len(lines) == 2
    assert lines[0].startswith("debug: ignored in function: ValueError: in a destructor")
    assert lines[1].startswith("error: internal error in")
