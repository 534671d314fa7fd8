"""docs/walkthrough.md names modules and functions that exist, at most twelve stations a way."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "walkthrough.md").read_text()
STATION = re.compile(r"^(\d+)\. \*\*`(greenagent/[\w/]+\.py)` `([\w.]+)`\*\*", re.MULTILINE)
NAMED = re.compile(r"`(greenagent/[\w/]+\.py)`(?: `([\w.]+)`)?")


def names(path: Path) -> set[str]:
    """Functions, classes and methods of a module: ``Class``, ``Class.method``, ``function``."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("way", ["line", "command"])
def test_a_way_has_at_most_twelve_stations_in_order(way: str) -> None:
    section = PAGE.split(f"\n## The way of a {way}\n")[1].split("\n## ")[0]
    stations = [int(number) for number, _, _ in STATION.findall(section)]
    assert stations == list(range(1, len(stations) + 1))
    assert 6 <= len(stations) <= 12


def test_every_name_exists() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) >= 12
    for file, name in named:
        assert (ROOT / file).is_file(), file
        assert not name or name in names(ROOT / file), f"{file} has no {name}"
