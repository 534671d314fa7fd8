"""Lines and statistics for a sink, in the form of OTLP: by the uploaders of a controller, judged more carefully."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from greenagent import __version__
from greenagent.uplink.delivery import MAX_BODY
from greenagent.uplink.encoding import Encoding
from greenagent.uplink.otlp import OtlpLines, OtlpStatistics
from greenagent.uplink.sink_link import RetriedSource, SinkHeaders
from greenagent.uplink.sources import LogSource, StatisticsSource
from greenagent.uplink.uploader import Uploader
from tests.support import recording_controller as behaviour
from tests.support.recording_controller import Post, status
from tests.support.recording_sink import LOGS, METRICS, RecordingSink, attributes, partial_success
from tests.support.uplink import Aside, MemoryLines, MemoryOutbox, Uplink, quick_backoff, running
from tests.support.waiting import wait_until

ENCODING = Encoding(OtlpLines(1, 10), OtlpStatistics(1, 10, has_command=False))
SEVERITIES = {1: 9, 2: 13, 3: 9, 4: 9, 5: 9, 6: 9, 7: 13, 8: 17, 9: 21, 10: 5, 11: 5, 20: 9, 30: 9, 55: 0}


class Lines:
    """An uploader of lines with its store, against one sink."""

    def __init__(self, sink: RecordingSink, batch_size: int = 100, formers: tuple[tuple[int, str], ...] = ()) -> None:
        self.store = MemoryLines("sink/main")
        self.aside = Aside()
        self.uplink = Uplink(sink.url, is_sink=True)
        encoding = ENCODING.lines
        source = LogSource(
            "main", self.store, batch_size, 300, self.aside, self.uplink.metrics, formers=formers, encoding=encoding
        )
        self.uploader = Uploader(
            source, self.uplink.client, self.uplink.health, backoff=quick_backoff(), probe_pause=0.001
        )

    def set_aside_texts(self) -> list[str]:
        return [json.loads(body)[0]["data"] for _, _, body, _, _ in self.aside.records]

    def wait_delivered(self) -> None:
        wait_until(lambda: self.store.cursor == len(self.store.records), what="all lines dealt with")

    def said(self, text: str) -> list[str]:
        return [line for line in self.uplink.said if text in line]


def lines(count: int) -> list[str]:
    return [f"line {number}" for number in range(count)]


def test_a_line_says_who_printed_it_when_and_how_grave_it_is() -> None:
    with RecordingSink() as sink:
        logs = Lines(sink)
        logs.store.add("it\tis \x00 \u20ac")
        with running(logs.uploader):
            logs.wait_delivered()
    (post,) = sink.posts
    assert post.endpoint == "/v1/logs"
    assert post.headers["Content-Type"] == "application/json"
    (resource,) = post.value["resourceLogs"]
    host = attributes(resource["resource"]).pop("host.name")
    assert attributes(resource["resource"]) == {
        "service.name": "greenagent", "service.version": __version__, "service.instance.id": "1:10",
        "host.name": host, "greenagent.gid": 1, "greenagent.nid": 10,
    }  # fmt: skip
    (scope,) = resource["scopeLogs"]
    assert scope["scope"] == {"name": "greenagent", "version": __version__}
    (record,) = scope["logRecords"]
    assert attributes(record) == {
        "job.id": "job", "job.domain": "d", "job.name": "n", "message.id": 1, "message.level": 2,
        "log.iostream": "stderr",
    }  # fmt: skip
    del record["attributes"]
    assert record == {
        "timeUnixNano": "1700000000500000001", "observedTimeUnixNano": "1700000000500000001",
        "severityNumber": 13, "severityText": "stderr", "body": {"stringValue": "it\tis \x00 \u20ac"},
    }  # fmt: skip


def test_a_line_of_a_job_without_any_name_is_json_too() -> None:
    wire: dict[str, Any] = {"id": 1, "jobid": "", "domain": "", "name": "", "epoch_ms": 1, "level": 3, "data": ""}
    assert attributes(json.loads(OtlpLines(1, 10).encode(wire))) == {"message.id": 1, "message.level": 3}


def test_lines_of_one_millisecond_keep_their_order_by_time() -> None:
    with RecordingSink() as sink:
        logs = Lines(sink)
        logs.store.add(*lines(5))
        with running(logs.uploader):
            logs.wait_delivered()
    times = [int(record["timeUnixNano"]) for record in sink.records]
    assert times == [1_700_000_000_500_000_000 + number for number in range(1, 6)]


@pytest.mark.parametrize(("level", "severity"), SEVERITIES.items())
def test_levels_become_severities(level: int, severity: int) -> None:
    wire: dict[str, Any] = {"id": 1, "jobid": "j", "domain": "", "name": "", "epoch_ms": 1, "level": level, "data": ""}
    record = json.loads(OtlpLines(1, 10).encode(wire))
    assert record["severityNumber"] == severity
    assert attributes(record).keys() - {"log.iostream"} == {"job.id", "message.id", "message.level"}
    assert ("log.iostream" in attributes(record)) == (level in (1, 2))


@pytest.mark.parametrize(
    "trouble",
    [status(401), status(404), status(503, {"Retry-After": "0"}), status(429), status(500), behaviour.close_at_once()],
    ids=["401", "404", "503", "429", "500", "closed"],
)
def test_a_sink_in_trouble_loses_no_line_and_gets_none_twice(trouble: behaviour.Behaviour) -> None:
    with RecordingSink() as sink:
        logs = Lines(sink)
        sink.misbehave(LOGS, trouble, times=4)
        logs.store.add(*lines(30))
        with running(logs.uploader):
            logs.wait_delivered()
    assert sink.texts == lines(30)
    assert logs.aside.records == []


@pytest.mark.parametrize("code", [400, 413, 422, 500])
@pytest.mark.parametrize("bad", [[0], [29], [13, 14], [0, 7, 29]])
def test_what_a_sink_refuses_is_set_aside_and_named_and_all_else_arrives_in_order(code: int, bad: list[int]) -> None:
    with RecordingSink() as sink:
        logs = Lines(sink)
        sink.reject("POISON", code)
        wanted = [f"POISON {number}" if number in bad else f"line {number}" for number in range(30)]
        logs.store.add(*wanted)
        with running(logs.uploader):
            logs.wait_delivered()
    assert sink.texts == [text for text in wanted if "POISON" not in text]
    assert logs.set_aside_texts() == [f"POISON {number}" for number in bad]
    key, path, body, refused_with, _ = logs.aside.records[0]
    assert (key, path, refused_with) == ("main", "log", code)
    assert json.loads(body)[0].keys() == {"id", "jobid", "domain", "name", "epoch", "epoch_ms", "level", "data"}
    (said,) = logs.said("set aside")
    assert said.startswith(f"sink main ({sink.url}): it refuses a line of job job (status {code})")


def test_what_answers_400_to_everything_makes_no_dead_letters() -> None:
    """Such as a web server under a wrong URL, or one that wants TLS."""
    with RecordingSink() as sink:
        logs = Lines(sink)
        sink.misbehave(LOGS, status(400))
        logs.store.add(*lines(20))
        with running(logs.uploader):
            alone = {f'{{"stringValue":"line {number}"}}'.encode() for number in range(20)}
            wait_until(lambda: alone <= set(map(_alone, sink.refused_posts)), what="each line to be tried by itself")
            assert logs.store.cursor == 0
            sink.behave()
            logs.wait_delivered()
    assert sink.texts[-20:] == lines(20)
    assert logs.aside.records == []


def _alone(post: Post) -> bytes:
    """The body of the one line of a post; nothing where there are several."""
    _, _, text = post.body.partition(b'"body":')
    return b"" if b'"body":' in text else text.partition(b',"attributes"')[0]


def test_rejected_records_that_nobody_can_tell_are_counted_and_said_once() -> None:
    with RecordingSink() as sink:
        logs = Lines(sink, batch_size=10)
        sink.misbehave(LOGS, partial_success("rejectedLogRecords", 3, "too old"), times=2)
        logs.store.add(*lines(30))
        with running(logs.uploader):
            logs.wait_delivered()
    assert sink.texts == lines(30), "what is taken in part is not to be sent again"
    assert logs.aside.records == []
    assert logs.uplink.metrics.rejected == 6
    (said,) = logs.said("without 3 of its records")
    assert "too old" in said


def test_a_batch_of_which_all_is_rejected_is_set_aside() -> None:
    with RecordingSink() as sink:
        logs = Lines(sink, batch_size=2)
        sink.misbehave(LOGS, partial_success("rejectedLogRecords", 2, "too old"), times=1)
        logs.store.add(*lines(4))
        with running(logs.uploader):
            logs.wait_delivered()
    assert logs.set_aside_texts() == lines(2)
    assert logs.uplink.metrics.rejected == 0
    assert "too old" in logs.aside.records[0][4]


def test_a_remark_beside_an_acceptance_is_said_once_and_nothing_more() -> None:
    with RecordingSink() as sink:
        logs = Lines(sink, batch_size=2)
        sink.misbehave(LOGS, partial_success("rejectedLogRecords", 0, "deprecated\r\n\tfield\u001b"))
        logs.store.add(*lines(6))
        with running(logs.uploader):
            logs.wait_delivered()
    assert sink.texts == lines(6)
    (said,) = logs.said("deprecated")
    assert said.endswith(r"it says: deprecated field\x1b")
    assert logs.uplink.metrics.rejected == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"partialSuccess": 3}',
        b'{"partialSuccess": {"rejectedLogRecords": []}}',
        b'{"partialSuccess": {"rejectedLogRecords": Infinity}}',
        b'{"partialSuccess": {"rejectedLogRecords": -3}}',
        b"[" * 30000,
    ],
)
def test_an_odd_acceptance_is_one_nevertheless(body: bytes) -> None:
    with RecordingSink() as sink:
        logs = Lines(sink)
        sink.misbehave(LOGS, status(200, {}, body))
        logs.store.add("a", "b")
        with running(logs.uploader):
            logs.wait_delivered()
    assert sink.texts == ["a", "b"]
    assert logs.uplink.said == []


def test_lines_of_a_former_address_go_out_under_that() -> None:
    with RecordingSink() as sink:
        logs = Lines(sink, formers=((2, "7/8"),))
        logs.store.add("a", "b", "c")
        with running(logs.uploader):
            logs.wait_delivered()
    found = [
        (attributes(post.value["resourceLogs"][0]["resource"])["service.instance.id"], post.body.count(b'"body"'))
        for post in sink.posts
    ]
    assert found == [("7:8", 2), ("1:10", 1)]


def outbox_object(stamp: int, **values: float | None) -> bytes:
    """As the outbox keeps it; keys of the seed's layout."""
    series = [[f"1.10.night.backup.{key}", value] for key, value in values.items()]
    return json.dumps([{"timestamp": stamp, "series": series}], separators=(",", ":")).encode()


class Statistics:
    """An uploader of statistics with its outbox, against one sink."""

    def __init__(self, sink: RecordingSink, has_command: bool = False) -> None:
        self.outbox = MemoryOutbox()
        self.uplink = Uplink(sink.url, is_sink=True)
        encoding = OtlpStatistics(1, 10, has_command)
        source = StatisticsSource("main", self.outbox, self.uplink.metrics, encoding=encoding, batch_size=10)
        self.uploader = Uploader(
            source, self.uplink.client, self.uplink.health, backoff=quick_backoff(), probe_pause=0.001
        )

    def add(self, *bodies: bytes) -> None:
        for body in bodies:
            self.outbox.add("", body, "stats")

    def wait_delivered(self) -> None:
        wait_until(lambda: not self.outbox.rows, what="an empty outbox")


def test_a_statistics_object_becomes_a_gauge_for_each_of_its_values() -> None:
    with RecordingSink() as sink:
        statistics = Statistics(sink)
        statistics.add(outbox_object(60, cpu=1.5, rss=None, **{"a.b": 3}), outbox_object(61, **{'"asDouble":': 4}))
        with running(statistics.uploader):
            statistics.wait_delivered()
    (post,) = sink.posts
    assert post.endpoint == METRICS
    (resource,) = post.value["resourceMetrics"]
    assert attributes(resource["resource"])["service.instance.id"] == "1:10"
    (scope,) = resource["scopeMetrics"]
    assert scope["scope"]["name"] == "greenagent"
    assert scope["metrics"][0].keys() == {"name", "gauge"}
    ((point,),) = [metric["gauge"]["dataPoints"] for metric in scope["metrics"][:1]]
    assert attributes(point) == {"job.domain": "night", "job.name": "backup"}
    assert sink.points == [
        ("cpu", 60_000_000_000, 1.5), ("a.b", 60_000_000_000, 3), ('"asDouble":', 61_000_000_000, 4),
    ]  # fmt: skip
    assert statistics.uplink.metrics.statistics_sent == 2


def test_the_command_is_an_attribute_where_keys_have_it() -> None:
    series = [["1.10.execute.night.backup.a.b", 1], ["1.10.night.backup.cpu", 2]]
    body = json.dumps([{"timestamp": 1, "series": series}]).encode()
    with RecordingSink() as sink:
        statistics = Statistics(sink, has_command=True)
        statistics.add(body)
        with running(statistics.uploader):
            statistics.wait_delivered()
    found = sink.posts[0].value["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    job = {"job.domain": "night", "job.name": "backup"}
    assert [(one["name"], attributes(one["gauge"]["dataPoints"][0])) for one in found] == [
        ("a.b", {"job.cmd": "execute", **job}), ("cpu", job),
    ]  # fmt: skip


def test_only_as_many_objects_are_encoded_as_go_out_together() -> None:
    """In the outbox they are a tenth as long."""
    outbox, uplink = MemoryOutbox(), Uplink("http://127.0.0.1:1", is_sink=True)
    for number in range(8):
        outbox.add("", outbox_object(number, **{f"key{key}": key for key in range(5000)}), "stats")
    source = StatisticsSource("main", outbox, uplink.metrics, encoding=ENCODING.statistics)
    (batch,) = source.next()
    assert 1 < len(batch.bodies) < 8
    assert sum(map(len, batch.bodies)) <= MAX_BODY
    batch.done(0, len(batch.bodies))
    source.settle()
    assert len(outbox.rows) == 8 - len(batch.bodies)


def test_an_object_without_a_number_is_not_sent() -> None:
    with RecordingSink() as sink:
        statistics = Statistics(sink)
        statistics.add(*[outbox_object(number, cpu=None) for number in range(15)], outbox_object(60, cpu=1))
        with running(statistics.uploader):
            statistics.wait_delivered()
    assert [len(post.value["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]) for post in sink.posts] == [1]


def test_statistics_survive_an_outage_and_those_that_are_refused_are_set_aside() -> None:
    with RecordingSink() as sink:
        statistics = Statistics(sink)
        sink.misbehave(METRICS, status(503), times=3)
        sink.reject('"poison"', 400)
        statistics.add(*[outbox_object(number, **{"poison" if number == 12 else "cpu": 1}) for number in range(25)])
        with running(statistics.uploader):
            statistics.wait_delivered()
    assert [stamp // 1_000_000_000 for _, stamp, _ in sink.points] == [n for n in range(25) if n != 12]
    ((refused, code, _),) = statistics.outbox.aside
    assert (refused.body, code) == (outbox_object(12, poison=1), 400)


@pytest.mark.parametrize(("rejected", "is_all"), [(2, False), (3, True)])
def test_rejected_points_are_counted_and_set_aside_where_they_are_all(rejected: int, is_all: bool) -> None:
    with RecordingSink() as sink:
        statistics = Statistics(sink)
        sink.misbehave(METRICS, partial_success("rejectedDataPoints", rejected, "no"))
        statistics.add(outbox_object(1, a=1, b=2, c=3))
        with running(statistics.uploader):
            statistics.wait_delivered()
    assert len(statistics.outbox.aside) == is_all
    assert statistics.uplink.metrics.rejected == (0 if is_all else 2)


def test_dead_letters_that_are_tried_again_are_encoded_anew_and_results_set_aside() -> None:
    line = {"id": 3, "jobid": "j", "domain": "", "name": "", "epoch": 1, "epoch_ms": 1000, "level": 1, "data": "late"}
    outbox, said = MemoryOutbox(), []
    outbox.add("j", b'{"id": "j"}')
    outbox.add("set aside 1", json.dumps([line]).encode(), "log")
    outbox.add("set aside 3", outbox_object(5, cpu=7), "/7/8/stats")
    outbox.add("set aside 2", json.dumps([{**line, "data": "later"}]).encode(), "/7/8/log")
    with RecordingSink() as sink:
        uplink = Uplink(sink.url, is_sink=True)
        source = RetriedSource("main", outbox, uplink.metrics, ENCODING, said.append)
        with running(Uploader(source, uplink.client, uplink.health, backoff=quick_backoff())):
            wait_until(lambda: not outbox.rows, what="an empty outbox")
    assert sink.texts == ["late", "later"]
    resources = [part["resource"] for post in sink.posts for parts in post.value.values() for part in parts]
    assert [attributes(resource)["greenagent.gid"] for resource in resources] == [1, 7, 7]
    assert sink.points == [("cpu", 5_000_000_000, 7)]
    ((refused, code, _),) = outbox.aside
    assert (refused.body, code) == (b'{"id": "j"}', 0)
    assert len(said) == 1


def test_a_token_is_sent_and_read_again_when_its_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    with RecordingSink() as sink:
        uplink = Uplink(sink.url, is_sink=True)
        client = uplink.client()
        client.more_headers = SinkHeaders({"X-Scope-OrgID": "a b"}, file, "Bearer")
        for token in ("first", "second-one"):
            file.write_text(token)
            client.post(LOGS, b"{}")
        file.unlink()
        client.post(LOGS, b"{}")
    assert [post.headers["Authorization"] for post in sink.posts] == [
        "Bearer first", "Bearer second-one", "Bearer second-one",
    ]  # fmt: skip
    assert {post.headers["X-Scope-Orgid"] for post in sink.posts} == {"a b"}


def test_without_a_token_that_can_be_read_nothing_is_sent(tmp_path: Path) -> None:
    with RecordingSink() as sink:
        logs = Lines(sink)
        file = tmp_path / "token"
        logs.uploader._client.more_headers = SinkHeaders({}, file, "Bearer")
        logs.store.add("a")
        with running(logs.uploader):
            wait_until(lambda: logs.said(f"cannot read the token file {file}"), what="the reason")
            assert sink.posts == sink.refused_posts == []
            file.write_text("word")
            logs.wait_delivered()
    assert sink.texts == ["a"]
