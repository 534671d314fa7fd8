"""Lines for a sink, in the form of OTLP: by the same uploader as those for a controller, and judged more carefully."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from greenagent import __version__
from greenagent.uplink.otlp import OtlpEncoding
from greenagent.uplink.sink_link import RetriedSource, SinkHeaders
from greenagent.uplink.sources import LogSource
from greenagent.uplink.uploader import Uploader
from tests.support import recording_controller as behaviour
from tests.support.recording_controller import Post, status
from tests.support.recording_sink import LOGS, RecordingSink, attributes, partial_success
from tests.support.uplink import Aside, MemoryLines, MemoryOutbox, Uplink, quick_backoff, running
from tests.support.waiting import wait_until

SEVERITIES = {1: 9, 2: 13, 3: 9, 4: 9, 5: 9, 6: 9, 7: 13, 8: 17, 9: 21, 10: 5, 11: 5, 20: 9, 30: 9, 55: 0}


class Lines:
    """An uploader of lines with its store, against one sink."""

    def __init__(self, sink: RecordingSink, batch_size: int = 100, formers: tuple[tuple[int, str], ...] = ()) -> None:
        self.store = MemoryLines("sink/main")
        self.aside = Aside()
        self.uplink = Uplink(sink.url, is_sink=True)
        encoding = OtlpEncoding(1, 10)
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
        "timeUnixNano": "1700000000500000000", "observedTimeUnixNano": "1700000000500000000",
        "severityNumber": 13, "severityText": "stderr", "body": {"stringValue": "it\tis \x00 \u20ac"},
    }  # fmt: skip


@pytest.mark.parametrize(("level", "severity"), SEVERITIES.items())
def test_levels_become_severities(level: int, severity: int) -> None:
    wire: dict[str, Any] = {"id": 1, "jobid": "j", "domain": "", "name": "", "epoch_ms": 1, "level": level, "data": ""}
    record = json.loads(OtlpEncoding(1, 10).line(wire))
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
        sink.misbehave(LOGS, partial_success("rejectedLogRecords", 0, "deprecated\nfield"))
        logs.store.add(*lines(6))
        with running(logs.uploader):
            logs.wait_delivered()
    assert sink.texts == lines(6)
    (said,) = logs.said("deprecated")
    assert "\n" not in said
    assert logs.uplink.metrics.rejected == 0


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"partialSuccess": 3}', b'{"partialSuccess": {"rejectedLogRecords": []}}']
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


def test_dead_letters_that_are_tried_again_are_encoded_anew_and_results_set_aside() -> None:
    line = {"id": 3, "jobid": "j", "domain": "", "name": "", "epoch": 1, "epoch_ms": 1000, "level": 1, "data": "late"}
    outbox, said = MemoryOutbox(), []
    outbox.add("j", b'{"id": "j"}')
    outbox.add("set aside 1", json.dumps([line]).encode(), "log")
    outbox.add("set aside 2", json.dumps([{**line, "data": "later"}]).encode(), "/7/8/log")
    with RecordingSink() as sink:
        uplink = Uplink(sink.url, is_sink=True)
        source = RetriedSource("main", outbox, uplink.metrics, OtlpEncoding(1, 10), said.append)
        with running(Uploader(source, uplink.client, uplink.health, backoff=quick_backoff())):
            wait_until(lambda: not outbox.rows, what="an empty outbox")
    assert sink.texts == ["late", "later"]
    addresses = [attributes(post.value["resourceLogs"][0]["resource"])["greenagent.gid"] for post in sink.posts]
    assert addresses == [1, 7]
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
