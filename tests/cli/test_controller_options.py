"""What ``greenagent-controller`` says to options that cannot be used."""

from __future__ import annotations

import socket

import pytest

from tests.support.programs import refused


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--listen", "nonsense"], 2, "HOST:PORT"),
        (["--listen", "\udcff:0"], 2, "no name of a host"),
        (["--listen", "a..b:0"], 2, "no name of a host"),
        (["--listen", "127.0.0.1:99999"], 2, "a port from 0 to 65535"),
        (["--listen", "203.0.113.1:1"], 1, "cannot listen"),
        (["--listen", "[2001:db8::1]:1"], 1, "cannot listen on [2001:db8::1]:1: "),
        (["--listen", "[fe80::1]:1"], 2, "names a link-local address of IPv6, which is none without its zone"),
        (["--tls-key", "x"], 2, "--tls-cert"),
        (["--tls-cert", "/nonexistent"], 1, "/nonexistent"),
        (["--token-file", "/nonexistent"], 1, "/nonexistent"),
        (["--keep-jobs", "-1"], 2, "must not be negative"),
    ],
)
def test_bad_options_are_one_line(options, code, words) -> None:
    assert words in refused(*options, code=code)


def test_a_taken_port_is_said_without_a_tuple() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refused("--listen", address)
    assert said == f"greenagent-controller: cannot listen on {address}: Address already in use"
