"""statsd lines mean what the shared vectors say (protocol 8.1 and 8.2)."""

import json
from pathlib import Path

import pytest

from greenagent.statistics.statsd import MAX_KEY, Metric, parse

VECTORS = [json.loads(line) for line in (Path(__file__).parents[1] / "vectors/statsd.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: json.dumps(vector["text"]))
def test_vector(vector: dict) -> None:
    parsed = parse(vector["text"])
    assert parsed.metrics == [Metric(*metric) for metric in vector["metrics"]]
    assert len(parsed.refused) == vector["refused"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x:1|zz", "unknown type 'zz'"),
        ("x:nan|g", "not a finite number"),
        ("x:1_000|c", "not a finite number"),
        ("x:\u0661|c", "not a finite number"),
        ("x:infinity|g", "not a finite number"),
        ("x:+|g", "not a finite number"),
        ("x:1|c|@1.5", "sample rate"),
        ("x:1|c|tag:a", "sample rate"),
        ("a:b:1|c", "not a finite number"),
        ("x:1|c|@0.1|@0.1", "sample rate"),
        ("x:1:2|c|@2|#a", "sample rate"),
        ("x:1|2|c", "not of the form"),
        ("a|b:1|c", "not of the form"),
        ("_e{5,4}:title|text|#a:b", "events and service checks"),
        ("_e{5,4}:title|text", "events and service checks"),
        ("_e{5,1}:title|s", "events and service checks"),
        ("_e{5,4}:title|text|@0.5", "events and service checks"),
        ("_sc|disk|0|#a:b", "events and service checks"),
        ("_sc|disk|0", "events and service checks"),
        ("k" * (MAX_KEY + 1) + ":1|c", "longer than"),
    ],
)
def test_a_refusal_names_the_line_and_the_reason(line: str, reason: str) -> None:
    parsed = parse(line)
    assert parsed.metrics == []
    assert len(parsed.refused) == 1
    assert line[:20] in parsed.refused[0]
    assert reason in parsed.refused[0]


@pytest.mark.parametrize(
    ("line", "metrics"),
    [
        ("page:1|c|#env:dev", [("page", 1.0, "c", 1.0)]),
        ("page:1|c|@0.5|#env:dev,b", [("page", 1.0, "c", 0.5)]),
        ("page:1|c|#env:dev|@0.5|c:ci-8f|T1656581400", [("page", 1.0, "c", 0.5)]),
        ("took:3|h", [("took", 3.0, "ms", 1.0)]),
        ("took:3:4.5|d|@0.1|#a", [("took", 3.0, "ms", 0.1), ("took", 4.5, "ms", 0.1)]),
        ("a:1:2:3|c", [("a", 1.0, "c", 1.0), ("a", 2.0, "c", 1.0), ("a", 3.0, "c", 1.0)]),
        ("q:+1:-2|g", [("q", "+1", "g", 1.0), ("q", "-2", "g", 1.0)]),
        ("v:7|kv|#a:b|e:it-false|card:low", [("v", 7.0, "kv", 1.0)]),
    ],
)
def test_the_dialect_of_datadog_counts_and_its_tags_are_dropped(line: str, metrics: list[tuple]) -> None:
    assert parse(line) == (metrics, [])


@pytest.mark.parametrize(
    ("line", "member"),
    [
        ("peers:10.0.0.7:8080|s", "10.0.0.7:8080"),
        ("peers:2001:db8::1|s|@1", "2001:db8::1"),
        ("peers:a|b|s", "a|b"),
        ("peers:a|s|s|#t:x", "a|s"),
        ("peers:|s", ""),
    ],
)
def test_a_member_of_a_set_is_any_text(line: str, member: str) -> None:
    assert parse(line) == ([("peers", member, "s", 1.0)], [])


@pytest.mark.parametrize("text", ["9" * 400 + "|c", "x" * 5000, "x:" + "9" * 400 + "|c"])
def test_huge_lines_are_refused_with_a_short_reason(text: str) -> None:
    parsed = parse(text)
    assert parsed.metrics == []
    assert len(parsed.refused) == 1
    assert len(parsed.refused[0]) < 300


def test_numbers_of_every_spelling() -> None:
    texts = ["1", "1.", ".5", "1e3", "1E-3", "+4", "-4", "1.5e+2"]
    parsed = parse("\n".join(f"x:{text}|c" for text in texts))
    assert parsed.refused == []
    assert [metric.value for metric in parsed.metrics] == [1.0, 1.0, 0.5, 1000.0, 0.001, 4.0, -4.0, 150.0]
