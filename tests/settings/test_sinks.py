"""Sections of sinks: what they mean, every fault one clear line, and what a reload makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenagent.settings.destinations import InfluxSink, OtlpSink
from greenagent.settings.reload import changes, merge
from greenagent.settings.show import print_config
from greenagent.values.levels import parse_levels
from tests.settings.support import MINIMAL, load, problems, warnings

OTLP = '[sinks.otel]\ntype = "OTLP"\nurl = "http://127.0.0.1:4318/"\n'
INFLUX = '[sinks.i]\ntype = "influx"\nurl = "http://127.0.0.1:8086/write?db=main"\n'


def test_a_sink_is_read_with_its_defaults(tmp_path: Path) -> None:
    sink = load(tmp_path, MINIMAL + OTLP).settings.sinks["otel"]
    assert sink == OtlpSink("otel", "http://127.0.0.1:4318")
    assert (sink.levels, sink.flush_int, sink.batch_size) == (None, 5, 1000)
    assert sink.takes_lines
    assert sink.takes_statistics


def test_a_sink_of_line_protocol_keeps_its_url_as_it_is(tmp_path: Path) -> None:
    settings = load(tmp_path, MINIMAL + INFLUX).settings
    assert settings.sinks == {"i": InfluxSink("i", "http://127.0.0.1:8086/write?db=main")}
    assert (settings.statistics_to, settings.line_sinks) == (("main", "i"), {})
    second = "http://h/api/v2/write?org=a%20b&bucket=c%2Fd"
    text = MINIMAL + INFLUX.replace("http://127.0.0.1:8086/write?db=main", second.replace("//h", "//127.0.0.1"))
    assert problems(tmp_path, text) == []


def test_a_sink_may_become_one_of_another_type(tmp_path: Path) -> None:
    before = load(tmp_path, MINIMAL + OTLP.replace("otel", "i")).settings
    after = load(tmp_path, MINIMAL + INFLUX).settings
    assert changes(before, after).applied == ("sinks.i has another type",)
    assert merge(before, after).sinks == after.sinks


def test_what_is_said_of_a_sink_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("word")
    (tmp_path / "token").chmod(0o600)
    more = "levels = '7-9'\nflush_int = 1\nbatch_size = 10\ntoken_file = 'token'\nheaders = {X-Scope-OrgID = 'a'}\n"
    loaded = load(tmp_path, MINIMAL + OTLP + more)
    sink = loaded.settings.sinks["otel"]
    assert (sink.levels, sink.flush_int, sink.batch_size) == (parse_levels("7-9"), 1, 10)
    assert (sink.token_file, sink.headers) == (tmp_path / "token", {"X-Scope-OrgID": "a"})
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[sinks.a]\nurl = "http://h"\n', "[sinks.a] type: is missing: otlp or influx."),
        ('[sinks.a]\ntype = "loki"\nurl = "http://h"\n', "[sinks.a] type: must be one of otlp, influx, not 'loki'"),
        ('[sinks.a]\ntype = "otlp"\n', "[sinks.a] url: is missing"),
        (
            '[sinks.a]\ntype = "otlp"\nurl = "http://h/v1/logs"\n',
            "[sinks.a] url: must not end with /v1/logs, which is added: 'http://h/v1/logs'",
        ),
        ('[sinks.a]\ntype = "otlp"\nurl = "ftp://h"\n', "[sinks.a] url: must begin with http:// or https://"),
        (
            OTLP + "level = [2]\n",
            "[sinks.otel] level: is not a setting of this sink (type otlp), did you mean 'levels'?",
        ),
        (OTLP + "sends = ['logs', 'lines']\n", "[sinks.otel] sends: must be one of logs, statistics, not 'lines'"),
        (OTLP + "flush_int = 0\n", "[sinks.otel] flush_int: must be at least 0.1"),
        (OTLP + "headers = {'a b' = 'c'}\n", "[sinks.otel] headers: holds 'a b', which is no name of a header"),
        (OTLP + "headers = {Content-Type = 'c'}\n", "holds 'Content-Type', which the agent sets itself"),
        (
            OTLP + 'headers = {X = "a\\r\\nb"}\n',
            "[sinks.otel] headers: 'X' must be printable ASCII without blanks around",
        ),
        (
            OTLP + "headers = {authorization = 'x'}\ntoken_file = 'there'\n",
            "[sinks]: otel: has token_file and Authorization in headers: keep one of them",
        ),
        (OTLP.replace("//127", "//me:secret@127") + "headers = {Authorization = 'x'}\n", "the password in url and"),
        (OTLP.replace("sinks.otel", "sinks.main"), "[sinks] main: has the name of a controller, give it another"),
        (OTLP + "token_file = 'gone'\n", "[sinks.otel] token_file: cannot read the token file"),
        (
            OTLP + "[sinks.otel.security]\ncertificate_authority = 'gone'\n",
            "[sinks.otel.security] certificate_authority: 'gone'",
        ),
        (
            INFLUX.replace("/write", ""),
            "[sinks.i] url: must end with /write and its query, such as /write?db=NAME: 'http",
        ),
        (INFLUX.replace("?db=main", ""), "[sinks.i] url: names no database: write ?db=NAME, or ?org=NAME&bucket=NAME"),
        (INFLUX.replace("main", "main&p=secret"), "[sinks.i] url: must not hold u or p: write USER:PASSWORD@ before"),
        (INFLUX.replace("main", "main&precision=s"), "[sinks.i] url: must not hold precision: times are nanoseconds"),
        (
            INFLUX.replace("//127", "//me:secret@127") + "token_file = 'there'\n",
            "has token_file and the password in url",
        ),
        (
            INFLUX + "levels = [2]\n",
            "[sinks.i] levels: is not a setting of this sink (type influx), it belongs to [sinks",
        ),
        ("[sinks]\nx = 3\n", "[sinks] x: must be a table, not a whole number"),
        ("[sink.a]\nx = 3\n", "[sink]: is not a section, did you mean 'sinks'?"),
        (
            OTLP + "[logging.ac]\ntype = 'AC'\ncontrollers = ['otel']\n",
            "[logging.ac] controllers: there is no controller 'otel'; [sinks.otel] says itself what is sent there",
        ),
    ],
)
def test_a_fault_is_one_clear_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "there").write_text("word")
    found = problems(tmp_path, MINIMAL + text)
    assert len(found) == 1, found
    assert reason.replace("[sinks]: otel:", "[sinks] otel:") in found[0]
    assert "secret" not in found[0]


def test_what_is_odd_about_a_sink_is_a_warning(tmp_path: Path) -> None:
    text = MINIMAL + OTLP.replace("127.0.0.1", "far.invalid") + "[sinks.otel.security]\ncertificate_authority = ''\n"
    (warning,) = warnings(tmp_path, text)
    assert "[sinks.otel] url: is http to another machine: whoever is on the way can read what is sent" in warning
    assert problems(tmp_path, text.replace("[main]", "[main]\nrequire_tls = true")) != []
    (tmp_path / "token").write_text("word")
    (tmp_path / "token").chmod(0o604)
    (warning,) = warnings(tmp_path, MINIMAL + OTLP + "token_file = 'token'\n")
    assert "token' can be read by every user, run: chmod o=" in warning


def test_every_line_of_a_sink_is_printed_but_for_what_is_secret(tmp_path: Path) -> None:
    text = MINIMAL + OTLP.replace("//127", "//me:hidden@127") + "headers = {X-Key = 'hidden'}\n"
    shown = print_config(load(tmp_path, text).settings)
    assert 'sinks.otel.type = "otlp"  # file\n' in shown
    assert 'sinks.otel.url = "http://***@127.0.0.1:4318"  # file\n' in shown
    assert 'sinks.otel.headers = {"X-Key" = "***"}  # file\n' in shown
    assert 'sinks.otel.security.client_certificate = ""  # default\n' in shown
    assert "hidden" not in shown


def test_a_reload_adds_changes_and_removes_sinks(tmp_path: Path) -> None:
    before = load(tmp_path, MINIMAL + OTLP).settings
    other = OTLP.replace("otel", "second") + OTLP + "levels = [7]\nbatch_size = 5\n"
    after = load(tmp_path, MINIMAL + other).settings
    plan = changes(before, after)
    assert plan.applied == ('sinks.otel.levels: [] -> "7"', "sinks.otel.batch_size: 1000 -> 5", "sinks.second added")
    assert plan.needs_restart == ()
    assert merge(before, after).sinks == after.sinks
    assert changes(after, before).applied[0] == "sinks.second removed"


def test_a_sink_gets_what_it_is_to_be_sent(tmp_path: Path) -> None:
    text = MINIMAL + OTLP + "sends = ['logs']\n" + OTLP.replace("otel", "b") + "sends = ['statistics']\n"
    settings = load(tmp_path, text).settings
    assert settings.statistics_to == ("main", "b")
    assert [(sink.takes_lines, sink.takes_statistics) for sink in settings.sinks.values()] == [
        (True, False), (False, True),
    ]  # fmt: skip


def test_sinks_count_among_the_pairs(tmp_path: Path) -> None:
    many = "".join(OTLP.replace("otel", f"s{number}") for number in range(62))
    assert problems(tmp_path, MINIMAL + many) == []
    (problem,) = problems(tmp_path, MINIMAL + many + "[logging.ac]\ntype = 'AC'\n")
    assert "there are 1 pairs of an AC logger and one of its controllers and 62 sinks, no more than 62" in problem
