"""Databases of released schemas stay readable (promise 7); a new schema adds its own folder in tests/data."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from greenagent.logs.folder import LogFolder
from greenagent.logs.read.query import LogQuery, newest_first
from tests.support.programs import ROOT, command

EXPECTED = [
    (5, "greenagent 1:10 is ready, polling main"),
    (4, "op only"),
    (1, "a"),
    (3, "pub"),
    (9, "crit"),
    (5, "stopping"),
]


@pytest.mark.parametrize("schema", ["schema-0.1"])
def test_a_database_of_an_earlier_version_is_read_and_verified(schema: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "data" / schema / "current.db", tmp_path / "current.db")
    found = [(record.level, record.data) for record in newest_first(LogFolder(tmp_path), LogQuery())]
    assert found[::-1] == EXPECTED
    program = command("logs")
    shown = subprocess.run(
        [*program, "--dir", tmp_path, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert [(line["level"], line["data"]) for line in map(json.loads, shown.stdout.splitlines())] == EXPECTED
    verified = subprocess.run(
        [*program, "verify", "--dir", tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
