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
        ("x:1|c|#tag:a", "sample rate"),
        ("a:b:1|c", "not of the form"),
        ("x:1|c|@0.1|@0.1", "sample rate"),
        ("k" * (MAX_KEY + 1) + ":1|c", "longer than"),
    ],
)
def test_a_refusal_names_the_line_and_the_reason(line: str, reason: str) -> None:
    parsed = parse(line)
    assert parsed.metrics == []
    assert len(parsed.refused) == 1
    assert line[:20] in parsed.refused[0]
    assert reason in parsed.refused[0]


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
