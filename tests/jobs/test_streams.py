"""What of a job's output its result carries: the last 1000 lines of each stream, at most 1 MiB each."""

from __future__ import annotations

import time
from collections.abc import Sequence

import gevent
import pytest

from greenagent.jobs.streams import STREAM_BYTES, JobOutput, Tail
from greenagent.logs.lines import Block, Mixed, Piece
from greenagent.values.message import Message


class Nowhere:
    def append(self, pieces: Sequence[Piece]) -> None:
        pass


def test_the_last_thousand_lines_are_kept_whatever_they_come_in() -> None:
    tail = Tail()
    for start in range(0, 3000, 300):
        tail.add("".join(f"{number}\n" for number in range(start, start + 300)), 300)
    tail.add("3000\n", 1)
    assert tail.text().splitlines() == [str(number) for number in range(2001, 3001)]


@pytest.mark.parametrize("character", ["x", "ä", "\U0001f600"])
def test_long_lines_are_kept_whole_from_the_end_up_to_a_mebibyte(character: str) -> None:
    tail = Tail()
    lines = [f"{number:04}" + character * 10_000 for number in range(500)]
    for line in lines:
        tail.add(line + "\n", 1)
    kept = tail.text().splitlines()
    assert kept == lines[-len(kept) :]
    size = len(lines[0].encode()) + 1
    assert len(kept) == STREAM_BYTES // size


def test_of_one_line_beyond_the_limit_the_end_is_kept() -> None:
    tail = Tail()
    tail.add("before\n", 1)
    tail.add("x" * (2 * STREAM_BYTES) + "end\n", 1)
    assert len(tail.text()) == STREAM_BYTES
    assert tail.text().endswith("xend\n")


def test_what_is_held_stays_small_however_much_is_printed() -> None:
    tail = Tail()
    held = 0
    for _ in range(300):
        tail.add("x" * 65_535 + "\n", 1)
        held = max(held, sum(len(text) for text, _ in tail._parts))
    assert held <= STREAM_BYTES + 2 * 65_536


def test_every_message_is_counted_in_whatever_form_it_comes() -> None:
    counted: list[tuple[int, int]] = []
    output = JobOutput(Nowhere(), lambda text: None, lambda text: None, lambda *output: counted.append(output))
    output.take([Block(1, "a\nb\n", 2), Mixed({1: 1, 2: 2}, "1::c\n2::d\n2::e\n", 3), Message(20, "{}")], 26)
    output.take([], 7)
    assert counted == [(6, 26), (0, 7)]


@pytest.mark.parametrize("level", [10, 101])
def test_many_messages_in_one_chunk_leave_the_hub_its_turns(level: int) -> None:
    turns = 0

    def count() -> None:
        nonlocal turns
        while True:
            gevent.sleep(0)
            turns += 1

    taken: list[str] = []
    seen: set[int] = set()

    def take(text: str) -> None:
        until = time.monotonic() + 0.0005
        while time.monotonic() < until:
            pass
        seen.add(turns)
        taken.append(text)

    counter = gevent.spawn(count)
    output = JobOutput(Nowhere(), take, take)
    output.take([Message(level, str(number)) for number in range(200)])
    counter.kill()
    assert taken == [str(number) for number in range(200)]
    assert len(seen) > 10
