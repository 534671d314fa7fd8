"""Reading and feeding pipes, also when nobody at the other end behaves."""

from __future__ import annotations

import os
import time

import gevent

from greenagent.process.child import end, sweep
from greenagent.process.pipes import PipeFeeder, PipeReader
from greenagent.runtime.descriptors import close_descriptor
from tests.support.children import close_pipes, read_some
from tests.support.waiting import wait_until


def test_ten_megabytes_through_stdin_and_stdout(start, finish):
    data = os.urandom(10 * 1024 * 1024)
    ended = finish(start("cat"), data)
    assert ended.stdout == data
    assert ended.status.code == 0


def test_both_streams_at_once(start, finish):
    ended = finish(start("bash", "-c", "head -c 3000000 /dev/zero & head -c 3000000 /dev/zero >&2; wait"))
    assert (len(ended.stdout), len(ended.stderr)) == (3000000, 3000000)


def test_stdin_is_at_its_end_when_there_is_no_data(start, finish):
    assert finish(start("wc", "-c")).stdout == b"0\n"


def test_child_that_does_not_read_its_stdin_ends_all_the_same(start, finish):
    ended = finish(start("sh", "-c", "echo done"), b"x" * 1_000_000)
    assert (ended.stdout, ended.status.code) == (b"done\n", 0)


def test_feeding_a_child_that_never_reads_blocks_nothing_and_can_be_given_up(start):
    child = start("sleep", "600")
    feeder = gevent.spawn(PipeFeeder(child.stdin, b"x" * 1_000_000).run)
    assert child.wait(0.05) is None
    assert not feeder.dead
    feeder.kill()
    assert end(child, 10) == ()
    child.reap()
    for descriptor in (child.stdout, child.stderr):
        close_descriptor(descriptor)


def collect(reader: PipeReader) -> gevent.Greenlet:
    return gevent.spawn(lambda: b"".join(reader.chunks()))


def test_reading_stops_though_a_grandchild_keeps_the_pipe(start):
    child = start("bash", "-c", "echo first; sleep 600 & echo $!")
    reader = PipeReader(child.stdout)
    output = collect(reader)
    child.wait(60)
    assert not output.ready()
    reader.stop_after(0.05)
    assert output.get(timeout=60).startswith(b"first\n")
    sweep(child)
    child.reap()
    for descriptor in (child.stdin, child.stderr):
        close_descriptor(descriptor)


def test_reading_stops_though_a_grandchild_writes_without_end(start):
    child = start("bash", "-c", "yes & echo $!")
    reader = PipeReader(child.stdout)
    pieces: list[bytes] = []
    reading = gevent.spawn(lambda: pieces.extend(reader.chunks()))
    child.wait(60)
    wait_until(lambda: any(b"y\ny\n" in piece for piece in pieces), what="the grandchild to write")
    reader.stop_after(0.1)
    reader.stop_after(600)
    reading.get(timeout=60)
    sweep(child)
    child.reap()
    for descriptor in (child.stdin, child.stderr):
        close_descriptor(descriptor)


def test_what_is_in_the_pipe_when_reading_stops_is_kept(start):
    child = start("bash", "-c", "head -c 60000 /dev/zero; sleep 600 &")
    child.wait(60)
    reader = PipeReader(child.stdout, size=1000)
    reader.stop_after(0)
    assert len(b"".join(reader.chunks())) == 60000
    sweep(child)
    child.reap()
    for descriptor in (child.stdin, child.stderr):
        close_descriptor(descriptor)


def test_slow_reader_loses_nothing_of_an_ended_child(start, finish):
    child = start("head", "-c", "60000", "/dev/zero")
    child.wait(60)
    reader = PipeReader(child.stdout, size=20000)
    reader.stop_after(0.02)
    total = 0
    for chunk in reader.chunks():
        total += len(chunk)
        gevent.sleep(0.03)
    assert total == 60000
    child.reap()
    for descriptor in (child.stdin, child.stderr):
        close_descriptor(descriptor)


def test_closing_wakes_the_reader_and_frees_the_descriptor(start):
    child = start("sleep", "600")
    before = len(os.listdir("/proc/self/fd"))
    reader = PipeReader(child.stdout)
    output = collect(reader)
    gevent.sleep(0)
    reader.close()
    reader.close()
    assert output.get(timeout=60) == b""
    assert len(os.listdir("/proc/self/fd")) == before - 1
    end(child, 10)
    child.reap()


def test_killed_reader_frees_the_descriptor(start):
    child = start("sleep", "600")
    before = len(os.listdir("/proc/self/fd"))
    output = collect(PipeReader(child.stdout))
    gevent.sleep(0)
    output.kill()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    end(child, 10)
    child.reap()


def test_others_get_their_turn_while_a_child_writes_at_full_speed(start):
    child = start("yes")
    reader = PipeReader(child.stdout)
    read = [0]

    def consume() -> None:
        for chunk in reader.chunks():
            read[0] += len(chunk)

    gevent.spawn(consume)
    turns = 0
    deadline = time.monotonic() + 120
    while read[0] < 50_000_000 and time.monotonic() < deadline:
        gevent.sleep(0.001)
        turns += 1
    assert read[0] >= 50_000_000
    assert turns > 3
    end(child, 10)
    child.reap()


def test_a_pipe_opened_under_a_number_just_closed_is_read(start, finish):
    for number in range(50):
        child = start("echo", str(number))
        read_some(child)
        close_pipes(child)
        assert finish(start("echo", str(number))).stdout == f"{number}\n".encode()
        child.reap()


def test_what_is_closed_is_not_waited_for_through_a_copy(start):
    """A child that is just being started has copies of all descriptors: each would be told as ready for ever."""
    child = start("cat")
    used = (child.stdin, child.stdout, child.pidfd)
    copies = [os.dup(descriptor) for descriptor in used]
    output = collect(PipeReader(child.stdout))
    gevent.spawn(PipeFeeder(child.stdin, b"x" * 1_000_000).run)
    assert child.wait(0.05) is None  # its input is open still, in the first copy
    os.close(copies.pop(0))
    assert len(output.get(timeout=60)) == 1_000_000
    child.wait(60)
    child.reap()
    close_descriptor(child.stderr)
    with open(f"/proc/self/fdinfo/{gevent.get_hub().loop.fileno()}") as file:
        waited_for = {int(line.split()[1]) for line in file if line.startswith("tfd:")}
    assert waited_for.isdisjoint(used)
    for copy in copies:
        os.close(copy)


def test_what_comes_first_is_taken_on_the_hub_and_so_is_the_end_of_a_silent_stream(start):
    child = start("echo", "said")
    seen: list[bytes | None] = []
    readers = [PipeReader(child.stdout), PipeReader(child.stderr)]
    for reader in readers:
        reader.when_ready(lambda reader=reader: seen.append(reader.first()))
    wait_until(lambda: len(seen) == 2)
    assert sorted(map(bytes, seen)) == [b"", b"said\n"]
    assert [reader.is_closed for reader in readers] == [False, True]
    assert list(readers[0].chunks()) == []
    child.wait(60)
    child.reap()
    close_descriptor(child.stdin)
