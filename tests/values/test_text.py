"""Text of others on a terminal."""

from __future__ import annotations

import pytest

from greenagent.values.text import is_loopback, visible

NAUGHTY = "a\tb\nc\x1b[31md\x00\u2028\udcff"


def test_control_characters_show_as_escapes_but_for_those_to_keep() -> None:
    assert visible(NAUGHTY) == "a\tb\nc\\x1b[31md\\x00\\u2028\\udcff"
    assert visible(NAUGHTY, keep="") == "a\\tb\\nc\\x1b[31md\\x00\\u2028\\udcff"


def test_other_text_stays_as_it_is() -> None:
    assert visible("caf\u00e9 \u6f22 \U0001f600") == "caf\u00e9 \u6f22 \U0001f600"


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        ("127.0.0.2", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("Localhost.", True),
        ("::ffff:192.0.2.1", False),
        ("192.0.2.1", False),
        ("localhost.example", False),
    ],
)
def test_what_is_this_machine_alone(host: str, is_it: bool) -> None:
    assert is_loopback(host) is is_it
