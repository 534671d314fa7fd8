"""Text of others on a terminal."""

from __future__ import annotations

from greenagent.values.text import visible

NAUGHTY = "a\tb\nc\x1b[31md\x00\u2028\udcff"


def test_control_characters_show_as_escapes_but_for_those_to_keep() -> None:
    assert visible(NAUGHTY) == "a\tb\nc\\x1b[31md\\x00\\u2028\\udcff"
    assert visible(NAUGHTY, keep="") == "a\\tb\\nc\\x1b[31md\\x00\\u2028\\udcff"


def test_other_text_stays_as_it_is() -> None:
    assert visible("caf\u00e9 \u6f22 \U0001f600") == "caf\u00e9 \u6f22 \U0001f600"
