"""A splitter handed over between two chunks goes on as if nothing had happened."""

import json

from hypothesis import strategies as st

from greenagent.logs.lines import Block, Piece
from greenagent.logs.splitter import Splitter
from greenagent.values.message import Message
from tests.support.properties import given

TEXT = st.lists(
    st.sampled_from([b"7::x\n", b"7:::a\n", b":::\n", b"plain", b"\n", b"\r\n", b"20:::", b"\xff", b"x" * 50, b"::"]),
    max_size=12,
).map(b"".join)


def messages(pieces: list[Piece]) -> list[Message]:
    found: list[Message] = []
    for piece in pieces:
        found += [Message(piece.level, line) for line in piece.lines()] if isinstance(piece, Block) else [piece]
    return found


@given(TEXT, TEXT)
def test_the_state_survives_json(first: bytes, second: bytes) -> None:
    whole = Splitter(1, max_line=40)
    expected = messages(whole.feed(first) + whole.feed(second) + whole.finish())
    before = Splitter(1, max_line=40)
    pieces = before.feed(first)
    after = Splitter(1, max_line=40)
    after.restore(json.loads(json.dumps(before.state())))
    assert messages(pieces + after.feed(second) + after.finish()) == expected
