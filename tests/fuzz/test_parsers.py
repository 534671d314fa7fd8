"""The parsers of what others send: any input gives a value or the documented error, nothing else."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import strategies as st

from greenagent.logs.lines import ALONE, Block, Mixed
from greenagent.logs.splitter import Splitter
from greenagent.statistics.statsd import TYPES, parse
from greenagent.values.arguments import KNOWN_ARGUMENTS
from greenagent.values.command import Command, decode_command, parse_command
from greenagent.values.errors import CommandError, LevelError
from greenagent.values.levels import LevelSet, parse_levels
from tests.support.properties import given, settings

MANY = settings(max_examples=400)

texts = st.text(st.characters(codec=None), max_size=30)
"""With lone surrogates."""
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
COMMAND_KEYS = ("id", "gid", "nid", "cmd", "name", "args", "data", "role", "roles", "fanout", "tags")
arguments = st.dictionaries(st.sampled_from(sorted(KNOWN_ARGUMENTS)) | texts, values, max_size=8)
commands = st.dictionaries(st.sampled_from(COMMAND_KEYS) | texts, values, max_size=8).flatmap(
    lambda command: st.one_of(
        st.just(command),
        arguments.map(lambda args: {"id": "j", "cmd": "ping", **command, "args": args}),
    )
)


def _decode(body: bytes | str) -> Command | None:
    """The command, checked; None when it was refused in the way that is documented."""
    try:
        command = decode_command(body)
    except CommandError as error:
        refusal = error
    else:
        _understood(command)
        return command
    assert refusal.reason
    assert "\n" not in refusal.reason
    json.dumps({"id": refusal.command_id, "data": refusal.reason}, ensure_ascii=False).encode("utf-8")
    return None


def _understood(command: Command) -> None:
    """What a command that was taken must allow: a result that others can read."""
    echo = json.dumps({"id": command.id, "args": command.arguments.echo(60), "tags": command.tags}, allow_nan=False)
    echo.encode("utf-8")
    command.data.encode("utf-8")
    for text in command.arguments.args:
        text.encode("utf-8")
    assert 0 < len(command.id) <= 200


@MANY
@given(commands | values)
def test_any_json_value_is_a_command_or_refused_with_a_reason(value: Any) -> None:
    body = json.dumps(value).encode()
    command = _decode(body)
    if command is not None:
        assert parse_command(command.received).is_same_as(command)


@MANY
@given(st.binary(max_size=200) | texts)
def test_any_bytes_are_a_command_or_refused_with_a_reason(body: bytes | str) -> None:
    with pytest.raises(CommandError) as caught:
        decode_command(body)
    assert caught.value.reason


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize("place", ['"args": {"max_time": %s}', '"args": {"args": [%s]}', '"more": [%s]'])
def test_numbers_that_json_does_not_know_are_refused_since_no_controller_could_read_the_echo(
    number: str, place: str
) -> None:
    with pytest.raises(CommandError, match="number") as caught:
        decode_command('{"id": "j", "cmd": "ping", %s}' % (place % number))
    assert caught.value.command_id == "j"


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"id": "j", "cmd": "ping", "args": {"env": [' + "["])
@pytest.mark.parametrize("depth", [500, 5_000, 200_000])
def test_deep_nesting_is_refused_or_read_without_falling_over(opening: str, depth: int) -> None:
    closing = {"[": "]", "{": "}"}
    whole = opening + opening[-1] * depth if opening[-1] == "[" else opening * depth + "1"
    for character in reversed(re.sub('"[^"]*"', "", whole)):
        whole += closing.get(character, "")
    _decode(whole)


pieces = st.lists(
    st.sampled_from(
        [
            b"2::",
            b"20:::",
            b":::",
            b"\n",
            b"\r\n",
            b"\r",
            b"10::",
            b"101::7",
            b"50::x",
            b"0::",
            b"999999999::",
            b"1000000000::",
            b"\0",
            b"\xff\xfe",
            "\u2028\x85ä".encode(),
            b"text",
            b":",
            b"::",
            b"x" * 40,
        ]
    )
    | st.binary(max_size=12),
    max_size=30,
).map(b"".join)


def _split(chunks: list[bytes]) -> list[tuple[int, str]]:
    splitter = Splitter(1, max_line=50, max_message=200)
    found: list[tuple[int, str]] = []
    for piece in [piece for chunk in chunks for piece in splitter.feed(chunk)] + splitter.finish():
        if isinstance(piece, Block):
            lines = piece.lines()
            assert len(lines) == piece.count
            assert piece.level not in ALONE
            found += [(piece.level, line) for line in lines]
        elif isinstance(piece, Mixed):
            messages = piece.messages()
            assert len(messages) == piece.count
            assert Counter(message.level for message in messages) == piece.levels
            assert not piece.levels.keys() & ALONE
            found += [tuple(message) for message in messages]
        else:
            found.append(tuple(piece))
    for level, text in found:
        assert 1 <= level <= 999_999_999
        assert level != 50
        text.encode("utf-8")
    return found


@MANY
@given(pieces, st.lists(st.integers(0, 400), max_size=6))
def test_any_bytes_split_into_the_same_messages_however_they_are_cut(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[low:high] for low, high in pairwise(edges)]
    assert _split(chunks) == _split([stream])
    assert _split([stream[index : index + 1] for index in range(len(stream))]) == _split([stream])


statsd_texts = (
    st.lists(
        st.sampled_from(["a.b", ":", "|", "@", "\n", "1", "-2", "+", "0.5", "1e999", "nan", "c", "g", "ms", "kv", "s"])
        | texts,
        max_size=20,
    ).map("".join)
    | texts
)


@MANY
@given(statsd_texts)
def test_any_statsd_text_gives_finite_metrics_and_refusals_only(text: str) -> None:
    parsed = parse(text)
    lines = [line for line in text.split("\n") if line.strip()]
    assert len(parsed.refused) <= len(lines) <= len(parsed.metrics) + len(parsed.refused)
    for metric in parsed.metrics:
        assert metric.key
        assert metric.type in TYPES
        assert 0 < metric.rate <= 1
        assert not isinstance(metric.value, float) or math.isfinite(metric.value)


level_texts = st.lists(st.sampled_from(["1", "9", "-", ",", " ", "*", "0", "999999999", "x"]), max_size=12).map("".join)


@MANY
@given(level_texts | values)
def test_any_value_is_a_level_list_or_refused_with_the_reason(value: Any) -> None:
    try:
        levels = parse_levels(value)
    except LevelError as error:
        refusal = str(error)
    else:
        assert levels is None or isinstance(levels, LevelSet)
        refusal = ""
    if refusal:
        assert "\n" not in refusal
    elif levels is not None:
        assert levels.everything or levels.ranges
        assert parse_levels(str(levels)) == levels
