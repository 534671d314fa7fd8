"""Sinks of a whole agent: one more destination behind the cursors, the outbox and the dead letters of controllers."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
import trustme

from greenagent.cli.logs.outbox import run as outbox
from greenagent.statistics.collector import FlushedObject
from tests.support.agents import AgentProcess, configuration
from tests.support.certificates import server_context, write_authority, write_pair
from tests.support.commands import shell
from tests.support.inside import InsideAgent
from tests.support.recording_controller import RecordingController, status
from tests.support.recording_sink import LOGS, METRICS, WRITE, RecordingSink, attributes
from tests.support.waiting import wait_until

PRINTS = "for i in 1 2 3; do echo line $i; done; echo '7::bad disk'"
PRINTED = ["line 1", "line 2", "line 3", "bad disk"]


def section(sink: RecordingSink, more: str = "flush_int = 0.1", name: str = "otel") -> str:
    return f'[sinks.{name}]\ntype = "otlp"\nurl = "{sink.url}/"\n{more}\n'


def test_a_sink_gets_what_its_own_levels_say_whatever_the_caller_wants(tmp_path: Path) -> None:
    """``loglevels_ac`` is for controllers; and startup tasks, which no controller asked for, are an operator's own."""
    with RecordingSink() as sink, RecordingController() as controller:
        more = section(sink, "flush_int = 0.1\nlevels = [1, 7]")
        more += '[startup.boot]\nname = "bash"\ndata = "echo at the start"\n'
        with InsideAgent(tmp_path, {"main": controller.url}, more=more) as inside:
            inside.accept(shell("j", f"{PRINTS}; echo no >&2", loglevels_ac="2", domain="night"))
            wait_until(lambda: len(sink.records) == 5, what="the lines at the sink")
            wait_until(lambda: controller.logs, what="those at the controller")
            inside.agent.store.flush()
    assert [record["data"] for record in controller.logs] == ["no"]
    jobs = {job: [record for record in sink.records if attributes(record)["job.id"] == job] for job in ("j", "boot")}
    assert [record["body"]["stringValue"] for record in jobs["j"]] == PRINTED
    assert attributes(jobs["j"][0])["job.domain"] == "night"
    assert [record["body"]["stringValue"] for record in jobs["boot"]] == ["at the start"]
    assert len(sink.records) == 5


def test_an_outage_of_a_sink_loses_nothing_and_duplicates_nothing_over_a_kill(tmp_path: Path) -> None:
    with RecordingSink() as sink, RecordingController() as controller:
        text = configuration(tmp_path, {"main": controller.url}, more=section(sink))
        agent = AgentProcess(tmp_path, text)
        try:
            agent.start()
            controller.push(shell("before", "seq 1 500"))
            wait_until(lambda: len(sink.texts) == 500, what="the lines before the outage")
            wait_until(lambda: _cursor(tmp_path) >= 500, what="the cursor on disk")
            sink.stop()
            controller.push(shell("within", "seq 501 1500"))
            controller.wait_for_result("within")
            agent.await_said("sink otel (")
            agent.kill()
            agent.start()
            controller.push(shell("later", "seq 1501 2000"))
            controller.wait_for_result("later")
            assert len(sink.texts) == 500
            sink.start()
            wait_until(lambda: len(sink.texts) >= 2000, what="all lines")
            assert agent.stop() == 0
        finally:
            agent.clean_up()
    assert sink.texts == [str(number) for number in range(1, 2001)]


def _cursor(folder: Path) -> int:
    connection = sqlite3.connect(folder / "history.db", timeout=60)
    try:
        found = connection.execute("SELECT seq FROM cursor WHERE name = 'sink/otel'").fetchone()
    finally:
        connection.close()
    return int(found[0]) if found else 0


def test_a_refused_line_is_a_dead_letter_and_goes_out_when_it_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RecordingSink() as sink, RecordingController() as controller:
        sink.reject("line 2", 400)
        with InsideAgent(tmp_path, {"main": controller.url}, more=section(sink)) as inside:
            inside.accept(shell("j", PRINTS))
            wait_until(lambda: sink.texts == ["line 1", "line 3", "bad disk"], what="all other lines")
            inside.await_said(f"sink otel ({sink.url}): it refuses a line of job j (status 400): set aside")
            ledger = ["--ledger", str(tmp_path / "history.db")]
            assert outbox([*ledger, "--json"]) == 0
            letter = json.loads(capsys.readouterr().out)
            assert (letter["controller"], letter["path"], letter["status"]) == ("otel", "log", 400)
            assert json.loads(letter["body"])[0]["data"] == "line 2"
            sink.behave()
            assert outbox([*ledger, "--retry"]) == 0
            wait_until(lambda: sink.texts[-1] == "line 2", what="the dead letter, tried again")
            told = inside.agent.monitoring.status.status()["sinks"]["otel"]
            figures = {
                one.name: one.value for one in inside.agent.metrics.shown() if ("controller", "otel") in one.labels
            }
    assert (told["log_lines_sent"], told["set_aside"], told["log_lines_waiting"]) == (3, 1, {"sink/otel": 0})
    assert (figures["log_lines_waiting"], figures["set_aside"]) == (0, 1)
    assert "polls" not in figures


def test_a_sink_comes_and_goes_with_a_reload(tmp_path: Path) -> None:
    with RecordingSink() as sink, RecordingController() as controller:
        controllers = {"main": controller.url}
        with InsideAgent(tmp_path, controllers) as inside:
            agent = inside.agent
            assert agent.monitoring.status.brief()["sinks"] == {}
            agent.reload(inside.settings(controllers, more=section(sink)))
            inside.await_said("reloaded: sinks.otel added")
            inside.accept(shell("one", "echo with"))
            wait_until(lambda: sink.texts == ["with"], what="a line at the new sink")
            agent.reload(inside.settings(controllers))
            inside.await_said("reloaded: sinks.otel removed")
            inside.accept(shell("two", "echo without"))
            controller.wait_for_result("two")
            agent.reload(inside.settings(controllers, more=section(sink)))
            inside.accept(shell("three", "echo again"))
            wait_until(lambda: sink.texts[1:] == ["again"], what="a line at the sink that is back")
    assert "controller otel" not in inside.stderr


def test_statistics_reach_a_sink_that_is_to_have_them_and_no_other(tmp_path: Path) -> None:
    with RecordingSink() as both, RecordingSink() as logs, RecordingController() as controller:
        more = section(both, name="both") + section(logs, 'sends = ["logs"]\nflush_int = 0.1', name="logs")
        both.misbehave(METRICS, status(503))
        with InsideAgent(tmp_path, {"main": controller.url}, more=more) as inside:
            inside.agent.statistics_outbox.add([FlushedObject(60, "1.10.night.backup.", {"rows": 5.0})])
            wait_until(lambda: controller.stats, what="the object at the controller")
            wait_until(lambda: both.refused_posts, what="a try at the sink")
            told = inside.agent.monitoring.status.status()["sinks"]
            assert (told["both"]["statistics_waiting"], told["logs"]["statistics_waiting"]) == (1, 0)
            both.behave()
            wait_until(lambda: ("rows", 60_000_000_000, 5.0) in both.points, what="the object at the sink")
            inside.accept(shell("j", PRINTS))
            wait_until(lambda: both.texts == logs.texts == PRINTED, what="lines at both")
    assert logs.points == []


def test_a_sink_of_line_protocol_gets_statistics_and_no_lines(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("word")
    with RecordingSink() as sink, RecordingController() as controller:
        more = f'[sinks.influx]\ntype = "influx"\nurl = "{sink.url}{WRITE}"\ntoken_file = "token"\n'
        with InsideAgent(tmp_path, {"main": controller.url}, more=more) as inside:
            inside.accept(shell("j", PRINTS))
            controller.wait_for_result("j")
            inside.agent.statistics_outbox.add([FlushedObject(60, "1.10.night.backup.", {"rows": 5.0})])
            line = "1.10.night.backup.rows,domain=night,gid=1,measurement=rows,name=backup,nid=10 value=5.0 60000000000"
            wait_until(lambda: line in sink.lines, what="the point")
            assert inside.agent.monitoring.status.brief()["sinks"]["influx"]["lines"] == 0
    assert {post.endpoint for post in sink.posts} == {WRITE}
    assert {post.headers["Authorization"] for post in sink.posts} == {"Token word"}


def test_a_sink_is_trusted_and_shown_a_certificate_as_a_controller_is(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    server = server_context(authority.issue_cert("127.0.0.1"), client_ca=authority)
    chain, key = write_pair(authority.issue_cert("agent"), tmp_path)
    trusted = write_authority(other, tmp_path / "ca")
    with RecordingSink(tls=server) as sink, RecordingController() as controller:
        more = section(sink) + f'[sinks.otel.security]\ncertificate_authority = "{trusted}"\n'
        more += f'client_certificate = "{chain}"\nclient_certificate_key = "{key}"\n'
        with InsideAgent(tmp_path, {"main": controller.url}, more=more) as inside:
            inside.accept(shell("j", PRINTS))
            inside.await_said(f"sink otel ({sink.url}): logs sink/otel: its certificate")
            assert sink.posts == []
            write_authority(authority, trusted)
            wait_until(lambda: sink.texts == PRINTED, what="the lines, once its authority is known")
            inside.await_said("sink otel: certificate files were replaced and are in use now")


def test_what_waits_for_a_sink_shows_in_the_status(tmp_path: Path) -> None:
    with RecordingSink() as sink, RecordingController() as controller:
        sink.misbehave(LOGS, status(503))
        with InsideAgent(tmp_path, {"main": controller.url}, more=section(sink)) as inside:
            inside.accept(shell("j", PRINTS))
            brief = inside.agent.monitoring.status.brief
            wait_until(lambda: brief()["sinks"]["otel"]["lines"] == 4 and brief()["sinks"]["otel"]["problem"])
            told = brief()
            assert told["problem"] is None, "a sink that is away does not make the agent ill"
            assert told["controllers"].keys() == {"main"}
            assert told["sinks"]["otel"] == {
                "problem": "it answers with status 503", "lines": 4, "statistics": 0,
            }  # fmt: skip
            sink.behave()
            wait_until(lambda: sink.texts == PRINTED, what="the lines after the outage")
