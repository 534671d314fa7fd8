"""The splitter means what the shared vectors say, however the bytes are cut.

See protocol 3 and design, section 5 "Messages and logs".
"""

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from greenagent.logs.lines import Block, Mixed, Piece
from greenagent.logs.splitter import Splitter
from greenagent.values import levels
from greenagent.values.message import Message
from tests.support.properties import given, settings
from tests.support.stores import messages

VECTORS = [
    json.loads(line) for line in (Path(__file__).parents[1] / "vectors/messages.jsonl").read_text("utf-8").splitlines()
]


def split(data: bytes, cuts: list[int], **limits: int) -> tuple[list[tuple[int, str]], Splitter]:
    splitter = Splitter(levels.STDOUT, **limits)
    pieces: list[Piece] = []
    start = 0
    for cut in [*sorted(cuts), len(data)]:
        pieces += splitter.feed(data[start:cut])
        start = max(start, cut)
    return messages(pieces + splitter.finish()), splitter


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
@pytest.mark.parametrize("step", [1, 2, 7, 1 << 20])
def test_vectors(vector: dict, step: int) -> None:
    data = vector["input"].encode("latin-1")
    splitter = Splitter(levels.STDOUT if vector["stream"] == "stdout" else levels.STDERR)
    pieces: list[Piece] = []
    for start in range(0, len(data), step):
        pieces += splitter.feed(data[start : start + step])
    found = messages(pieces + splitter.finish())
    announced = [text for level, text in found if level == levels.PROCESS_ANNOUNCEMENT]
    kept = [[level, text] for level, text in found if level != levels.PROCESS_ANNOUNCEMENT]
    results = [message for message in kept if message[0] in levels.RESULTS]
    assert kept == vector["messages"]
    assert (results[-1] if results else None) == vector["result"]
    assert [int(text) for text in announced if text.isdigit()] == vector["pids"]


LINE = st.one_of(
    st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"")),
    st.sampled_from([b"", b":::", b":::x", b":::7::x", b"20::{}", b"20:::", b"7:::a", b"7::a", b"50::e", b"101::4"]),
    st.sampled_from([b"7::" + b"y" * 70, b"z" * 90, "\N{EURO SIGN}".encode() * 30, b"20::" + b"r" * 300, b"9:::c"]),
    st.sampled_from([b"7:::" + b"m" * 120, b":::" + b"g" * 80, b"0::x", b"99999999999::x", b"a\r", b"\r", b":::\r"]),
)
STREAM = st.builds(
    lambda lines, end: b"\n".join(lines) + end, st.lists(LINE, max_size=12), st.sampled_from([b"", b"\n", b"\r\n"])
)


@settings(max_examples=400)
@given(data=STREAM, fractions=st.lists(st.floats(0, 1), max_size=8))
def test_any_chunking_gives_the_same_messages(data: bytes, fractions: list[float]) -> None:
    limits = {"max_line": 40, "max_message": 100}
    cuts = [int(fraction * len(data)) for fraction in fractions]
    whole, splitter = split(data, [], **limits)
    chunked, other = split(data, cuts, **limits)
    single, _ = split(data, list(range(len(data))), **limits)
    assert chunked == whole == single
    assert (splitter.truncated, splitter.result_truncated) == (other.truncated, other.result_truncated)


@settings(max_examples=200)
@given(data=STREAM)
def test_without_limits_nothing_is_lost(data: bytes) -> None:
    """Every byte but line ends, prefixes and terminators comes out again."""
    found, splitter = split(data, [])
    text = "".join(text for _, text in found)
    assert splitter.truncated == 0
    for letter in "yzrmg":
        assert text.count(letter) == data.decode("utf-8", "backslashreplace").count(letter)


def test_long_lines_are_cut_into_messages_of_one_level() -> None:
    found, _ = split(b"7::" + b"x" * 25 + b"\nnext\n", [], max_line=10, max_message=100)
    assert found == [(7, "x" * 10), (7, "x" * 10), (7, "x" * 5), (1, "next")]


def test_a_character_is_never_cut_in_two() -> None:
    found, _ = split("€€€€\n".encode(), [5], max_line=10)
    assert [text for _, text in found] == ["€€€", "€"]


def test_results_and_multi_line_messages_pass_the_line_limit_and_end_at_their_own() -> None:
    found, splitter = split(
        b"20::" + b"r" * 60 + b"\n7:::" + b"m" * 150 + b"\nmore\n:::\nx\n", [], max_line=10, max_message=100
    )
    assert found[0] == (20, "r" * 60)
    assert found[1] == (7, "m" * 100)
    assert found[2][0] == levels.WARNING
    assert "100 bytes" in found[2][1]
    assert found[3:] == [(1, "x")]
    assert splitter.truncated == 1
    assert not splitter.result_truncated


def test_a_cut_result_is_flagged_until_a_whole_one_follows() -> None:
    splitter = Splitter(levels.STDOUT, max_line=10, max_message=20)
    splitter.feed(b"20::" + b"r" * 50 + b"\n")
    assert splitter.result_truncated
    splitter.feed(b"21::ok\n")
    assert not splitter.result_truncated


def test_lines_of_one_level_stay_one_block() -> None:
    pieces = Splitter(levels.STDOUT).feed(b"5::a\n5::b\n5::c\n")
    assert pieces == [Block(5, "a\nb\nc\n", 3)]


def test_lines_of_several_levels_stay_one_block_around_those_that_must_be_seen() -> None:
    pieces = Splitter(levels.STDOUT).feed(b"5::a\nplain\n007::b::c\n10::hits:1|c\n3::x\n3::y\n0::text\n50::e\nlast\n")
    assert pieces == [
        Mixed({1: 1, 5: 1, 7: 1}, "5::a\n1::plain\n007::b::c\n", 3),
        Message(10, "hits:1|c"),
        Block(3, "x\ny\n", 2),
        Message(1, "0::text"),
        Message(2, "e"),
        Block(1, "last\n", 1),
    ]


def test_memory_is_bounded_on_a_line_that_never_ends() -> None:
    splitter = Splitter(levels.STDOUT, max_line=1000)
    count = sum(len(text) for _ in range(1000) for _, text in messages(splitter.feed(b"x" * 997)))
    left = sum(len(text) for _, text in messages(splitter.finish()))
    assert count + left == 997_000
    assert left < 3000
