"""``greenagent-ctl`` with values at the edge: in its options, and in what a controller answers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from gevent.pywsgi import WSGIServer
from gevent.server import StreamServer

from greenagent.controller.limits import Limits
from tests.controller.ctl import AnsweringAgent, Ctl, ctl
from tests.controller.support import Agent
from tests.controller.test_ctl import NO_LINES, on_node

NAUGHTY = "line\u2028separator\x0cform\x0bfeed\x1d\x85\rreturn"


@contextmanager
def answers(values: dict[str, str]) -> Iterator[str]:
    """Answers requests by the last part of their path; yields the URL."""

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [values[environ["PATH_INFO"].rpartition("/")[2]].encode()]

    server = WSGIServer(("127.0.0.1", 0), application, log=None)
    server.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.stop()


def test_only_line_feeds_begin_a_line(controller) -> None:
    """Unicode and ASCII have other separators, which JSON and people's texts hold."""
    value = {"text": NAUGHTY, "more": "x"}
    data = json.dumps(value, ensure_ascii=False)

    def answer(agent: Agent, command: dict[str, Any]) -> None:
        agent.finish(command["id"], data=f"{data}\n{NAUGHTY}\n", level=20, streams=[f"{NAUGHTY}\n", ""])

    agent = AnsweringAgent(controller, answer)
    try:
        done = ctl(controller.url, *on_node("--id", "x", "--", "job"))
        shown = ctl(controller.url, "show", "x").out
    finally:
        agent.stop()
    assert done == (0, f"{NAUGHTY}\n{data}\n{NAUGHTY}\n", NO_LINES)
    assert json.loads(done.out.split("\n")[1]) == value
    assert f"\n  {data}\n  {NAUGHTY}\n  stdout:\n    {NAUGHTY}\n" in shown


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
    assert (done.code, done.out) == (2, "")
    assert said in done.err.splitlines()[-1]
    assert controller.get("jobs")["jobs"] == []


def test_a_command_that_is_too_large_is_refused_with_2(make_controller, tmp_path) -> None:
    controller = make_controller(Limits(job_body=10_000))
    text = tmp_path / "text"
    text.write_text("x" * 20_000)
    with text.open("rb") as stdin:
        done = Ctl("--url", controller.url, *on_node("--data", "-", "--", "true"), stdin=stdin).done()
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith("refuses (413): the body is larger than 10000 bytes\n")


def test_stamps_no_calendar_has_are_shown_as_unknown() -> None:
    line = '{"gid": 1, "nid": 1, "id": %d, "level": 1, "data": "text", "epoch": %s, "epoch_ms": %s000, "number": %d}'
    stamps = ("1" + "0" * 17, "1" + "0" * 400, "-1" + "0" * 17)
    lines = ",".join(line % (number, stamp, stamp, number) for number, stamp in enumerate(stamps, 1))
    page = f'{{"lines": [{lines}], "next": 3, "dropped": 0, "finished": true, "run": "r"}}'
    with answers({"logs": page}) as url:
        done = ctl(url, "logs", "x")
        assert done == (0, "--:--:-- 1:1  1 text\n" * 3, "")


def test_top_leaves_out_figures_with_a_stamp_no_calendar_has() -> None:
    figures = {"1.1.a.b.cpu": '{"timestamp": 1%s, "value": 1, "interval": null}' % ("0" * 400)}
    agent = {"gid": 1, "nid": 1, "live": True}
    received = ", ".join(f'"{key}": {value}' for key, value in figures.items())
    pages = {
        "jobs": '{"jobs": []}',
        "agents": json.dumps({"agents": [agent]}),
        "stats": f'{{"agents": [{{"gid": 1, "nid": 1, "figures": {{{received}}}}}]}}',
    }
    with answers(pages) as url:
        done = ctl(url, "top", "--once", "--json")
        shown = ctl(url, "top", "--once")
    assert (done.code, done.err, json.loads(done.out)["jobs"]) == (0, "", [])
    assert (shown.code, shown.err) == (0, "")


def test_an_answer_nested_too_deeply_is_one_line() -> None:
    with answers({"agents": "[" * 100_000}) as url:
        done = ctl(url, "agents")
    assert done == (3, "", f"greenagent-ctl: what answers at {url} is no controller\n")


def test_a_controller_that_ends_meanwhile_is_not_taken_for_one_that_speaks_tls() -> None:
    """It has answered without TLS. On the first request a connection that is closed may mean just that."""
    told = json.dumps({"id": "x", "state": "RUNNING", "kills": [{"gid": 1, "nid": 10, "id": "k"}]}).encode()
    requests: list[bytes] = []

    def serve(connection: Any, address: Any) -> None:
        with connection, connection.makefile("rb") as lines:
            while head := lines.readline():
                requests.append(head)
                length = 0
                while (line := lines.readline()).strip():
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                lines.read(length)
                if not head.startswith(b"POST"):
                    return
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(told), told))

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        killed = ctl(url, "kill", "x")
        first = ctl(url, "agents")
    finally:
        server.stop()
    assert killed == (3, "", f"greenagent-ctl: cannot reach the controller at {url}: it closed the connection\n")
    assert first.err.endswith(": it closed the connection: if it speaks TLS, the URL must begin with https\n")
    assert [head.split()[0] for head in requests] == [b"POST", b"GET", b"GET"]


def test_control_characters_of_names_do_not_reach_the_terminal(controller) -> None:
    name = "two\nlines \x1b[31mred"
    agent = Agent(controller)
    poll = agent.poll()
    controller.submit(id="x", gid=1, nid=10, cmd="execute", args={"name": name, "domain": "d"})
    poll.command()
    flush = {"timestamp": int(time.time()), "series": [[f"1.10.d.{name}.cpu", 5]]}
    assert agent.post("stats", [flush]).status_code == 200
    for arguments in (("jobs",), ("show", "x"), ("top", "--once")):
        done = ctl(controller.url, *arguments)
        assert done.code == 0
        assert "two\\nlines \\x1b[31mred" in done.out, arguments
        assert "\x1b" not in done.out
    assert json.loads(ctl(controller.url, "jobs", "--json").out)["jobs"][0]["name"] == name
