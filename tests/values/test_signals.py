"""Signals by name and by number."""

from __future__ import annotations

import signal

import pytest

from greenagent.values.errors import SignalError
from greenagent.values.signals import parse_signal, signal_name


def test_each_name_that_is_shown_is_read_back() -> None:
    for number in range(1, signal.NSIG):
        assert parse_signal(signal_name(number)) == number
        assert parse_signal(signal_name(number).removeprefix("SIG").lower()) == number
        assert parse_signal(number) == parse_signal(str(number)) == number


def test_real_time_signals_count_from_both_ends() -> None:
    last = signal.SIGRTMAX - signal.SIGRTMIN
    assert parse_signal("rtmin+3") == parse_signal("SIGRTMIN+3") == signal.SIGRTMIN + 3
    assert parse_signal("RTMAX-1") == parse_signal("SIGRTMAX-1") == signal.SIGRTMAX - 1
    assert parse_signal(f"RTMIN+{last}") == signal.SIGRTMAX
    assert parse_signal(f"RTMAX-{last}") == signal.SIGRTMIN


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "SIG",
        "0",
        "-1",
        "+1",
        "65",
        "999999",
        "RTMIN+",
        "RTMIN-1",
        "RTMAX+1",
        "RTMIN+99",
        "RTMIN3",
        "TERM+1",
        "a\nb",
        "٣",
    ],
)
def test_what_is_no_signal_is_refused_with_what_is(wrong: str) -> None:
    with pytest.raises(SignalError, match=r"there is no signal .* RTMIN\+3"):
        parse_signal(wrong)
