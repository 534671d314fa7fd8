"""Metering reads real processes: trees, those that left it, short ones, many at once (protocol 8.3)."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import gevent
import pytest

from greenagent.process.job_tree import JobTree, Reaper
from greenagent.runtime import procfs
from greenagent.statistics.meter import Meter, ProcessUsage
from tests.support.processes import state_of
from tests.support.waiting import wait_until


@contextmanager
def child(program: str) -> Iterator[subprocess.Popen]:
    """A Python child in a group of its own that has printed ``ready``; its whole group dies at the end."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", program], stdout=subprocess.PIPE, stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        process.stdout.close()
        process.stdin.close()


def read(pid: int) -> procfs.Process:
    process = procfs.read_process(pid)
    assert process is not None
    return process


def tree_of(process: subprocess.Popen) -> JobTree:
    return JobTree(Reaper(), process.pid, 0)


IDLE = "import sys; print('ready', flush=True); sys.stdin.read()"
BUSY = "print('ready', flush=True)\nwhile True: pass"
GREEDY = "import sys; block = bytearray(60_000_000); print('ready', flush=True); sys.stdin.read()"


def parent_of(program: str) -> str:
    return (
        "import os, sys\n"
        "pid = os.fork()\n"
        f"if pid == 0:\n    exec({program!r})\n    os._exit(0)\n"
        "sys.stdin.read(); os.waitpid(pid, 0)\n"
    )


def test_memory_threads_and_descriptors_of_one_process() -> None:
    program = (
        "import sys, threading, os\n"
        "block = bytearray(30_000_000)\n"
        "threading.Thread(target=sys.stdin.read, daemon=True).start()\n"
        "files = [os.open('/dev/null', os.O_RDONLY) for _ in range(5)]\n"
        "print('ready', flush=True); threading.Event().wait()"
    )
    readings: list[ProcessUsage] = []
    meter = Meter(2)
    with child(program) as process:
        watch = meter.watch("job", process.pid, tree_of(process).find_in, readings.append)
        assert len(readings) == 1
        assert readings[0].cpu == 0
        meter.tick()
        usage = meter.usage("job")
        assert usage == readings[-1] == watch.usage
        assert usage.rss > 30_000_000
        assert usage.vms > usage.rss
        assert usage.threads == 2
        assert usage.fds == len(os.listdir(f"/proc/{process.pid}/fd")) >= 8
        assert usage.pids == (process.pid,)
        watch.close()


def test_a_process_is_read_again_a_tenth_of_a_second_after_its_start() -> None:
    program = "import sys; print('ready', flush=True); sys.stdin.readline(); block = bytearray(60_000_000); "
    program += "print('ready', flush=True); sys.stdin.read()"
    readings: list[ProcessUsage] = []
    with child(program) as process:
        watch = Meter(2).watch("job", process.pid, tree_of(process).find_in, readings.append)
        assert [reading.rss < 60_000_000 for reading in readings] == [True]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"  # the hub has had no turn
        wait_until(lambda: len(readings) == 2, what="the second look")
        assert watch.usage.rss > 60_000_000
        assert watch.usage.cpu == 0
        watch.close()


def test_processor_time_is_percent_of_one_core() -> None:
    meter = Meter(2)
    with child(BUSY) as process:

        def now() -> tuple[float, int]:
            return time.monotonic(), read(process.pid).cpu_ticks

        earliest = now()
        meter.watch("job", process.pid, tree_of(process).find_in)
        began = now()
        wait_until(lambda: read(process.pid).cpu_ticks >= began[1] + 40, what="some processor time")
        ended = now()
        meter.tick()
        share = meter.usage("job").cpu
        latest = now()
        # The meter looked at some time between; the machine may have stood still there.
        least = 100 * (ended[1] - began[1]) / procfs.TICKS / (latest[0] - earliest[0])
        most = 100 * (latest[1] - earliest[1]) / procfs.TICKS / (ended[0] - began[0])
        assert 0.65 * least <= share <= 1.35 * most
        assert share > 5


def test_the_whole_tree_counts() -> None:
    meter = Meter(2)
    with child(parent_of(GREEDY)) as process:
        meter.watch("job", process.pid, tree_of(process).find_in)
        meter.tick()
        usage = meter.usage("job")
        assert len(usage.pids) == 2
        assert usage.pids[0] == process.pid or usage.pids[1] == process.pid
        assert usage.rss > 60_000_000


def test_a_grandchild_that_left_the_tree_still_counts_once_it_was_seen() -> None:
    program = (
        "import os, sys\n"
        "reader, writer = os.pipe()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    grandchild = os.fork()\n"
        "    if grandchild:\n"
        "        os.read(reader, 1); os._exit(0)\n"
        "    print('ready', flush=True); import time; time.sleep(60); os._exit(0)\n"
        "sys.stdin.read(1); os.write(writer, b'x'); os.waitpid(pid, 0); sys.stdin.read()\n"
    )
    meter = Meter(2)
    with child(program) as process:
        meter.watch("job", process.pid, tree_of(process).find_in)
        meter.tick()
        before = meter.usage("job").pids
        assert len(before) == 3
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()

        def left_with_its_parent_gone() -> bool:
            meter.tick()
            return len(meter.usage("job").pids) == 2

        wait_until(left_with_its_parent_gone, what="the middle process to end")
        grandchild = next(pid for pid in meter.usage("job").pids if pid != process.pid)
        assert read(grandchild).parent != process.pid


def test_announced_processes_count_and_bring_no_time_from_before() -> None:
    meter = Meter(2)
    with child(BUSY) as other:
        wait_until(lambda: read(other.pid).cpu_ticks > 30, what="some processor time")
        other.send_signal(signal.SIGSTOP)  # what it uses from now on would count
        wait_until(lambda: state_of(other.pid) == "T", what="its stop")
        with child(IDLE) as process:
            tree = tree_of(process)
            meter.watch("job", process.pid, tree.find_in)
            tree.attach(read(other.pid))
            meter.tick()
            usage = meter.usage("job")
            assert set(usage.pids) == {process.pid, other.pid}
            assert usage.cpu < 5


def test_a_process_that_has_ended_keeps_its_memory_and_gets_its_last_time() -> None:
    program = (
        "import sys, time\n"
        "block = bytearray(20_000_000)\n"
        "print('ready', flush=True)\n"
        "while time.process_time() < 0.4: pass\n"
    )
    readings: list[ProcessUsage] = []
    meter = Meter(2)
    with child(program) as process:
        watch = meter.watch("job", process.pid, tree_of(process).find_in, readings.append)
        wait_until(lambda: read(process.pid).is_dead, what="the process to end")
        last = watch.close()
        count = len(readings)
        assert watch.close() is last is readings[-1]
        assert len(readings) == count <= 3  # at the start, a tenth of a second later, at the end
        assert last.cpu > 0
        assert last.rss > 20_000_000
        assert meter.usage("job") == ProcessUsage()


def test_bytes_written_are_counted(tmp_path) -> None:
    program = (
        "import os, sys\n"
        f"file = os.open({str(tmp_path / 'x')!r}, os.O_WRONLY | os.O_CREAT)\n"
        "os.write(file, b'x' * 1_000_000); os.fsync(file)\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    if os.statvfs(tmp_path).f_blocks == 0 or not os.path.exists("/proc/self/io"):
        pytest.fail("this kernel counts no bytes of a process")
    meter = Meter(2)
    with child(program) as process:
        meter.watch("job", process.pid, tree_of(process).find_in)
        meter.tick()
        own_count = procfs.read_io(process.pid)
        usage = meter.usage("job")
        assert (usage.read_bytes, usage.write_bytes) == own_count
        with open(f"/proc/{process.pid}/io") as file:
            assert f"write_bytes: {usage.write_bytes}" in file.read()


def test_a_pid_with_another_start_time_is_somebody_else() -> None:
    meter = Meter(2)
    with child(IDLE) as process, child(IDLE) as other:
        tree = tree_of(process)
        watch = meter.watch("job", process.pid, tree.find_in)
        tree.attach(read(other.pid))
        meter.tick()
        assert set(watch.usage.pids) == {process.pid, other.pid}
        tree.known[other.pid] += 1
        meter.tick()
        assert watch.usage.pids == (process.pid,)


def test_readings_of_a_tick_cost_nothing_without_jobs_and_go_on_with_many() -> None:
    meter = Meter(0.05)
    with ExitStack() as stack:
        children = [stack.enter_context(child(IDLE)) for _ in range(5)]
        counts = [0] * 5

        def counter(number: int) -> Callable[[ProcessUsage], None]:
            def count(usage: ProcessUsage) -> None:
                counts[number] += 1

            return count

        service = gevent.spawn(meter.run)
        try:
            watches = [
                meter.watch(f"job{number}", process.pid, tree_of(process).find_in, counter(number))
                for number, process in enumerate(children)
            ]
            wait_until(lambda: min(counts) >= 4, what="several ticks")
            total = meter.total()
            assert set(total.pids) == {os.getpid(), *(process.pid for process in children)}
            assert total.rss > sum(watch.usage.rss for watch in watches)
        finally:
            service.kill()


def test_the_agents_own_usage_leaves_its_children_out() -> None:
    meter = Meter(2)
    with child(GREEDY):
        usage = meter.own_usage()
        assert usage.pids == (os.getpid(),)
        assert usage.rss == pytest.approx(read(os.getpid()).rss, rel=0.2)
        end = time.process_time() + 0.15
        while time.process_time() < end:
            pass
        meter.tick()
        assert meter.own_usage().cpu > 0


def test_a_process_that_does_not_exist_has_no_usage() -> None:
    gone = 4_194_305  # over the largest pid there can be
    meter = Meter(2)
    readings: list[ProcessUsage] = []
    watch = meter.watch("job", gone, JobTree(Reaper(), gone, 0).find_in, readings.append)
    meter.tick()
    assert watch.close() == ProcessUsage()
    assert readings in ([], [ProcessUsage()])


def test_of_a_process_just_started_the_first_reading_comes_when_it_is_wanted() -> None:
    """When it is asked for, a moment later, or with its end: then from what the kernel tells as it is reaped."""
    readings: list[ProcessUsage] = []
    meter = Meter(2)
    with child(IDLE) as process:
        start_ticks = read(process.pid).start_ticks
        watches = [
            meter.watch(key, process.pid, tree_of(process).find_in, readings.append, start_ticks)
            for key in ("asked", "left", "ended")
        ]
        assert readings == []
        watches[2].close(lambda: (0.05, 512, 1024))
        assert readings[-1] == watches[2].usage
        assert readings[-1][-3:] == (512, 1024, ())
        assert readings[-1].cpu > 0
        assert meter.usage("asked").pids == (process.pid,)
        assert readings[-1].rss > 0
        wait_until(lambda: watches[1].usage.rss > 0, what="the look a moment later")
        for watch in watches:
            watch.close()
