"""docs/defects.md names a test for every defect: for all of protocol 13.2 and 13.3, and each test exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_defect_is_guarded_by_a_test_that_exists() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\|$", (ROOT / "docs" / "defects.md").read_text(), re.MULTILINE)
    assert [int(number) for number in rows] == list(range(11, 41))
    for line in (ROOT / "docs" / "defects.md").read_text().splitlines():
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line)
        assert named or not line.startswith("| ") or line.endswith("| Test |"), line
        for file, name in named:
            assert re.search(rf"^ *def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"
