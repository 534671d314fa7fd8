"""What ``greenagent-controller`` says to options that cannot be used."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from greenagent.cli.controller import build_parser, loose_ends, open_doors
from tests.support.controllers import ControllerProcess
from tests.support.programs import refused
from tests.support.waiting import wait_until


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--listen", "nonsense"], 2, "HOST:PORT"),
        (["--listen", "\udcff:0"], 2, "no name of a host"),
        (["--listen", ":8991"], 2, "names no host, write 0.0.0.0:8991 or [::]:8991 for all of this machine"),
        (["--listen", "*:8991"], 2, "names no host, write 0.0.0.0:8991 or [::]:8991 for all of this machine"),
        (["--listen", "a..b:0"], 2, "no name of a host"),
        (["--listen", "127.0.0.1:99999"], 2, "a port from 0 to 65535"),
        (["--listen", "203.0.113.1:1"], 1, "cannot listen"),
        (["--listen", "[2001:db8::1]:1"], 1, "cannot listen on [2001:db8::1]:1: "),
        (["--listen", "[fe80::1]:1"], 2, "names a link-local address of IPv6, which is none without its zone"),
        (["--tls-key", "x"], 2, "--tls-cert"),
        (["--tls-cert", "/nonexistent"], 1, "/nonexistent"),
        (["--token-file", "/nonexistent"], 1, "/nonexistent"),
        (["--keep-jobs", "-1"], 2, "must not be negative"),
        (["--original-clients", "http://:secret@h?password=s"], 1, "--original-clients http://***@h: "),
    ],
)
def test_bad_options_are_one_line(options, code, words) -> None:
    assert words in refused(*options, code=code)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "redis.py").write_text("raise ImportError('there is none')\n")
    monkeypatch.setenv("GREENAGENT_CONTROLLER_ORIGINAL_CLIENTS", "redis://127.0.0.1:1")
    said = refused(folder=tmp_path)
    assert said.endswith("the package redis is missing: pip install redis, or the extra redis (docs/originals.md)")


def test_what_may_be_lost_and_who_may_come_by_way_of_original_clients_is_said() -> None:
    def said(*options: str, url: str) -> str:
        return " / ".join(loose_ends(build_parser().parse_args(options), url))

    assert "are forgotten when this controller ends" in said(url="redis://h")
    assert "has no password" in said(url="redis://h")
    assert said("--state", "f", url="redis://:p@h") == ""


def test_a_taken_port_is_said_without_a_tuple() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refused("--listen", address)
    assert said == f"greenagent-controller: cannot listen on {address}: Address already in use"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--token-file", "t"], []),
        (["--client-ca", "c"], []),
        (["--listen", "[::1]:1"], ["/api has no token: every user of this machine can run commands"]),
        (["--listen", "[::]:1", "--token-file", "t"], ["[::]:1 is open to other machines: ", "(--tls-cert)"]),
        (
            ["--listen", "10.0.0.1:1", "--tls-cert", "c"],
            ["every user of this machine", "take its commands (--client-ca)"],
        ),
        (["--listen", "0.0.0.0:1", "--tls-cert", "c", "--client-ca", "c"], []),
    ],
)
def test_who_else_can_use_it_is_said(options: list[str], words: list[str]) -> None:
    said = " / ".join(open_doors(build_parser().parse_args(options)))
    assert all(word in said for word in words)
    assert bool(said) == bool(words)
    assert ("--tls-cert" in said) == ("(--tls-cert)" in words)


def test_a_controller_that_starts_without_a_token_says_who_can_use_it(tmp_path: Path) -> None:
    with ControllerProcess(tmp_path) as controller:
        wait_until(lambda: " warning: /api has no token: " in controller.stderr, what="the warning")
