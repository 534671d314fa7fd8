"""statsd lines a second: parsing alone, and parsing with aggregation, beside a bare split of the same lines.

Run from the repository's root: ``python -m benchmarks.statsd``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from greenagent.runtime.patch import patch

patch()

from greenagent.statistics.series import Series, feed_text  # noqa: E402
from greenagent.statistics.statsd import parse  # noqa: E402

MIXTURE = (
    "requests.{n}:1|c",
    "requests.sampled.{n}:1|c|@0.1",
    "memory.{n}:{n}|g",
    "memory.{n}:-1|g",
    "latency.{n}:12.5|ms",
    "users.{n}:user{n}|s",
    "note.{n}:6|kv",
)


def bare(text: str) -> int:
    """The least that any reader of such lines does."""
    count = 0
    for line in text.split("\n"):
        key, _, rest = line.partition(":")
        value, _, kind = rest.partition("|")
        count += len((key, value, kind)) > 0
    return count


def lines_a_second(function: Callable[[str], object], texts: list[str], lines: int) -> float:
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        for text in texts:
            function(text)
        best = max(best, lines / (time.perf_counter() - began))
    return best


def main() -> int:
    lines = [template.format(n=number % 100) for number in range(15_000) for template in MIXTURE]
    for name, texts in (
        ("one line a message", lines),
        ("40 lines a message", ["\n".join(lines[place : place + 40]) for place in range(0, len(lines), 40)]),
    ):
        reference = lines_a_second(bare, texts, len(lines))
        series = Series()
        for what, function in (
            ("parsed", parse),
            ("parsed and aggregated", lambda text, series=series: feed_text(series, text)),
        ):
            speed = lines_a_second(function, texts, len(lines))
            print(f"{name}, {what}: {speed:,.0f} lines/s = {speed / reference:.2f} x a bare split ({reference:,.0f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
