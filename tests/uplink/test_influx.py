"""Statistics for a sink that takes line protocol: what InfluxDB reads of a line is what the point was."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from greenagent.statistics.collector import FlushedObject
from greenagent.statistics.outbox import encode
from greenagent.uplink.influx import CONTENT_TYPE, InfluxStatistics
from greenagent.uplink.sources import StatisticsSource
from greenagent.uplink.uploader import Uploader
from tests.support.properties import given
from tests.support.recording_controller import status
from tests.support.recording_sink import WRITE, RecordingSink
from tests.support.uplink import MemoryOutbox, Uplink, quick_backoff, running
from tests.support.waiting import wait_until

UNFIT = re.compile(r"[\x00-\x1f\x7f\\]")


def lines_of(item: FlushedObject, has_command: bool = True) -> list[str]:
    return InfluxStatistics(WRITE, has_command).encode(encode(item).encode(), lambda: None).decode().split("\n")


def split(text: str, separator: str) -> list[str]:
    """At separators that have no backslash before them, as InfluxDB does."""
    return re.split(rf"(?<!\\){re.escape(separator)}", text)


def read(line: str) -> tuple[str, dict[str, str], float, int]:
    """Measurement, tags, value and time of a line, as InfluxDB reads it."""
    key, field, stamp = split(line, " ")
    measurement, *tags = split(key, ",")
    pairs: Iterator[Any] = (split(tag, "=") for tag in tags)
    name, value = field.split("=")
    assert name == "value"
    return (
        re.sub(r"\\([, ])", r"\1", measurement),
        {tag: re.sub(r"\\([, =])", r"\1", text) for tag, text in pairs},
        float(value),
        int(stamp),
    )


def test_a_point_has_the_name_and_tags_of_the_original_controller() -> None:
    (line,) = lines_of(FlushedObject(1700000000, "1.10.execute.night.backup.", {"rows.read": 5.0}))
    assert line == (
        "1.10.execute.night.backup.rows.read,"
        "command=execute,domain=night,gid=1,measurement=rows.read,name=backup,nid=10 value=5.0 1700000000000000000"
    )


def test_without_a_command_in_the_keys_there_is_no_such_tag_nor_one_that_is_empty() -> None:
    (line,) = lines_of(FlushedObject(60, "1.10..backup.", {"cpu": 1e300}), has_command=False)
    assert line == "1.10..backup.cpu,gid=1,measurement=cpu,name=backup,nid=10 value=1e+300 60000000000"


def test_values_that_json_does_not_know_are_left_out() -> None:
    item = FlushedObject(60, "1.10.c.d.n.", {"a": float("inf"), "b": 2.0})
    (line,) = lines_of(item)
    assert read(line)[1]["measurement"] == "b"


PARTS = st.text(st.characters(exclude_characters=".", exclude_categories=["Cs"]), max_size=8) | st.text(
    "\\, =\"#a\n'", max_size=8
)


@given(PARTS, PARTS, PARTS, PARTS.filter(bool), st.floats(allow_nan=False, allow_infinity=False))
def test_whatever_jobs_are_called_a_line_is_read_as_it_was_meant(
    cmd: str, domain: str, name: str, key: str, value: float
) -> None:
    (line,) = lines_of(FlushedObject(60, f"1.10.{cmd}.{domain}.{name}.", {key: value}))
    plain = {"gid": "1", "nid": "10", "command": cmd, "domain": domain, "name": name, "measurement": key}
    tags = {tag: UNFIT.sub("_", text) for tag, text in plain.items() if text}
    assert read(line) == (UNFIT.sub("_", f"1.10.{cmd}.{domain}.{name}.{key}"), tags, value, 60_000_000_000)


def test_statistics_are_written_and_survive_an_outage_and_a_refused_object_is_set_aside() -> None:
    outbox = MemoryOutbox()
    for number in range(25):
        item = FlushedObject(number, "1.10.d.n.", {"bad" if number == 7 else "cpu": 1.0, "rss": 2.0})
        outbox.add("", encode(item).encode(), "stats")
    with RecordingSink() as sink:
        uplink = Uplink(sink.url, is_sink=True, content_type=CONTENT_TYPE)
        source = StatisticsSource(
            "main", outbox, uplink.metrics, encoding=InfluxStatistics(WRITE, False), batch_size=10
        )
        sink.misbehave(WRITE, status(404, {}, b'{"error":"database not found: \\"main\\""}'), times=2)
        sink.misbehave(WRITE, status(503), times=2)
        sink.reject(".bad", 400)
        with running(Uploader(source, uplink.client, uplink.health, backoff=quick_backoff(), probe_pause=0.001)):
            wait_until(lambda: not outbox.rows, what="an empty outbox")
    stamps = [read(line)[3] // 1_000_000_000 for line in sink.lines]
    assert stamps == sorted([number for number in range(25) if number != 7] * 2)
    ((refused, code, _),) = outbox.aside
    assert (json.loads(refused.body)[0]["timestamp"], code) == (7, 400)
    assert any("database not found" in line for line in uplink.said)
