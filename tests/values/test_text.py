"""Text of others on a terminal."""

from __future__ import annotations

import itertools

import pytest

from greenagent.values.text import beginnings, is_loopback, visible

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


def test_a_shortened_id_means_one_and_is_as_short_as_it_may_be() -> None:
    known = ["".join(letters) for length in range(1, 5) for letters in itertools.product("ab", repeat=length)][::3]
    for shown in (known, known[::2], known[5:6]):
        found = beginnings(shown, known, 2)
        assert set(found) == set(shown)
        for text, short in found.items():
            assert text.startswith(short)
            meant = [one for one in known if one.startswith(short)]
            assert meant == [text] or short == text, "an id in full always wins"
            longer = short == text or len(short) == 2
            assert longer or len([one for one in known if one.startswith(short[:-1])]) > 1


def test_ids_keep_eight_characters_and_what_tells_them_apart() -> None:
    ids = ["backup-2026-11-26", "backup-2026-11-27", "4766fcd6-aa11-4b5e-8d55", "x"]
    assert beginnings(ids[1:], ids) == {
        "backup-2026-11-27": "backup-2026-11-27",
        "4766fcd6-aa11-4b5e-8d55": "4766fcd6",
        "x": "x",
    }
