"""What ``greenagent-ctl`` says to options that cannot be used: one line, exit code 125, and nothing is sent."""

from __future__ import annotations

import pytest
import trustme

from tests.support.certificates import write_pair
from tests.support.ctl import (
    ctl,
    on_node,
)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--gid", "1", "--nid", "10", "--name", "label", "--", "true"), "--domain labels it"),
        (("run", "--gid", "1", "--nid", "10", "--fan-out", "--", "true"), "unrecognized arguments: --fan-out"),
        (("run", "true", "--gid", "1", "--nid", "10"), "say where to run it, in front of the command: --gid and --nid"),
        (("jobs", "--nonsense"), "unrecognized arguments: --nonsense (see greenagent-ctl jobs --help)"),
        (("jobs", "--sinc=1h"), "--sinc=1h (did you mean --since?) (see greenagent-ctl jobs --help)"),
        (("jbos",), "there is no 'jbos' (did you mean jobs?): run, agents, jobs, show, logs, kill, schedule, top"),
        (("jobs", "--state", "foo"), "'foo' is no state: say QUEUED, WAITING, RUNNING, DUPILICATE_ID, ERROR"),
        (("logs", "x", "--json", "--no-prefix"), "--json and --no-prefix exclude each other"),
        (("logs", "x", "--tail", "-1"), "'-1' is not a whole number"),
        (("jobs", "--limit", "0"), "'0' is not a positive number"),
        (("jobs", "--limit", "-3"), "'-3' is not a positive number"),
        (("--url", "http://[fe80::1%25lo]:1", "agents"), "names a zone of IPv6, which is not supported"),
        (
            ("--url", "http://[fe80::1]:1", "agents"),
            "names a link-local address of IPv6, which is none without its zone",
        ),
        (("kill", "x", "--signal", "FOO"), "--signal: there is no signal 'FOO'"),
        (("kill", "x", "--signal", "99"), "--signal: there is no signal '99'"),
        (("show", ""), "an empty text is no job's id"),
        (("show", "--", ""), "an empty text is no job's id"),
        (("show",), "give the id of one job"),
        (("kill", "one", "--", "two"), "give the id of one job, not of several"),
        (("logs", "--", "one", "two"), "give the id of one job, not of several"),
        (("show", "a\udcff"), "an argument is not valid UTF-8"),
        (("--url", "http://[::1", "agents"), "is not an http or https address"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_usage_errors_say_what_to_do(controller, arguments, said) -> None:
    controller.submit(id="x", gid=1, nid=10, wait_for_agent=60)
    done = ctl(controller.url, *arguments)
    assert done.code == 125
    assert said in done.err.splitlines()[-1]
    assert controller.state("x") == "QUEUED"


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--", "true"],
        ["run", "--nid", "1", "--", "true"],
        ["run", "--gid", "1", "--nid", "1"],
        ["run", "--gid", "1", "--nid", "1", "--role", "x", "--", "true"],
        ["run", "--gid", "1", "--nid", "1", "--fanout", "--", "true"],
        ["run", "--gid", "1", "--nid", "1", "--args-json", "[]", "--", "true"],
        ["run", "--gid", "1", "--nid", "1", "--env", "nothing", "--", "true"],
        ["run", "--role", "web", "--require-all", "--", "true"],
        ["agents", "--", "x"],
        ["jobs", "--since", "soon"],
        ["--ca", "/nonexistent", "agents"],
        ["--token-file", "/nonexistent", "agents"],
        ["--url", "ftp://x", "agents"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_usage_errors_are_125(controller, arguments) -> None:
    done = ctl(controller.url, *arguments)
    assert done.code == 125
    assert done.out == ""
    assert done.err.splitlines()[-1].startswith("greenagent-ctl")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("kill", "x", "--wait", "nan"), "argument --wait: 'nan' is not a number of seconds"),
        (("kill", "x", "--wait", "inf"), "argument --wait: 'inf' is not a number of seconds"),
        (("kill", "x", "--wait", "-1"), "argument --wait: '-1' is not a number of seconds"),
        (("top", "--once", "--interval", "nan"), "argument --interval: 'nan' is not a number of seconds"),
        (("top", "--json", "--interval", "inf"), "argument --interval: 'inf' is not a number of seconds"),
        (("top", "--json", "--interval", "1e12"), "argument --interval: '1e12' is not a number of seconds"),
        (on_node("--wait-for-agent", "nan", "--", "true"), "argument --wait-for-agent: 'nan' is not a number"),
        (on_node("--wait-for-agent", "1e400", "--", "true"), "argument --wait-for-agent: '1e400' is not a number"),
        (
            on_node("--max-restart", "-1", "--", "true"),
            "argument --max-restart: '-1' is not a whole number",
        ),
        (on_node("--recurring", "-5", "--", "true"), "argument --recurring: '-5' is not a whole number"),
        (
            on_node("--max-time", "-2", "--", "true"),
            "argument --max-time: '-2' is not a whole number; -1 is for no limit",
        ),
        (("run", "--gid", "x", "--nid", "1", "true"), "argument --gid: 'x' is not a whole number; it must not be neg"),
        (("--url", "http://127.0.0.1:9", "jobs"), "Connection refused: is it there, or at another --url"),
        (on_node("--args-json", '{"a": NaN}', "--", "true"), "--args-json is not JSON: there is no number NaN"),
        (on_node("--args-json", '{"a": -Infinity}', "--", "true"), "--args-json is not JSON: there is no number -Inf"),
        (on_node("--args-json", '{"a": 1e999}', "--", "true"), "cannot be sent as JSON: Out of range float values"),
        (on_node("--args-json", "[" * 100_000, "--", "true"), "--args-json is nested too deeply"),
        (("--url", "http://a..b", "agents"), "--url 'http://a..b' is not an http or https address"),
        (("--url", "http://x:99999", "agents"), "--url 'http://x:99999' is not an http or https address"),
        (("--url", "http://\u2028:1", "agents"), "is not an http or https address"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_values_that_cannot_be_used_are_usage_errors(controller, arguments, said) -> None:
    done = ctl(controller.url, *arguments)
    assert (done.code, done.out) == (125, "")
    assert said in done.err.splitlines()[-1]
    assert controller.get("jobs")["jobs"] == []


def test_files_that_cannot_be_used_are_usage_errors(controller, tmp_path) -> None:
    authority = trustme.CA()
    mine, key = write_pair(authority.issue_cert("me"), tmp_path, "me")
    other_key = write_pair(authority.issue_cert("other"), tmp_path, "other")[1]
    text = tmp_path / "text"
    text.write_text("nothing of the kind\n")
    damaged = tmp_path / "damaged"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for options, said in (
        (("--ca", text), f"--ca {text} is no PEM file with a certificate"),
        (("--ca", damaged), f"--ca {damaged} is damaged: it cannot be decoded, store it anew"),
        (("--ca", tmp_path), f"--ca {tmp_path} cannot be read: it is a folder, not a file"),
        (("--cert", text, "--key", key), f"--cert {text} is no PEM file with a certificate"),
        (("--cert", mine, "--key", text), f"--key {text} is no PEM file with a private key"),
        (("--cert", mine), f"--cert {mine} is no PEM file with a private key"),
        (("--cert", mine, "--key", other_key), f"--key {other_key} does not match --cert {mine}"),
        (("--cert", damaged, "--key", key), f"--cert {damaged} is damaged: it cannot be decoded, store it anew"),
    ):
        done = ctl(controller.url, *(str(option) for option in options), "agents")
        assert done == (125, "", f"greenagent-ctl: {said}\n")


def test_every_option_is_explained() -> None:
    from greenagent.cli.ctl.main import build_parser

    parsers = [build_parser()]
    for parser in parsers:
        for action in parser._actions:
            if isinstance(action.choices, dict):
                parsers.extend(action.choices.values())
            else:
                assert action.help, (parser.prog, action.dest)
