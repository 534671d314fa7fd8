"""``greenagent-logs`` for people who may read some things and not others, and what it refuses."""

import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from greenagent.spool.models import SCHEMA

from greenagent.values import levels
from tests.conftest import needs
from tests.logs.test_cli_logs import COMMAND, ENVIRONMENT, ORIGINAL, lines, run

CONFIGURATION = """
[main]
gid = 1
nid = 2
message_id_file = "{folder}/mid"
history_file = "{folder}/history"
[controllers.main]
url = "https://127.0.0.1:1"
[controllers.main.security]
client_certificate = "{folder}/agent.crt"
client_certificate_key = "{folder}/agent.key"
[logging.db]
type = "DB"
log_dir = "{folder}/logs"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ORIGINAL, tmp_path / "logs")
    make_ledger(tmp_path / "history.db")
    return tmp_path


def make_ledger(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in SCHEMA:
            connection.execute(statement)


def run_restricted(*arguments: object) -> subprocess.CompletedProcess[str]:
    """As somebody whom the modes of files bind: root without its powers is one."""
    wrapper = [needs("setpriv"), "--bounding-set=-all"] if os.geteuid() == 0 else []
    command = [*wrapper, *COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=ENVIRONMENT)


def test_a_reader_needs_none_of_the_agents_certificates(folder: Path) -> None:
    config = folder / "agent.toml"
    config.write_text(CONFIGURATION.format(folder=folder))
    assert len(lines("-c", config, "--limit", "2")) == 2
    assert lines("verify", "-c", config)
    assert lines("outbox", "-c", config) == ["nothing is set aside"]


def test_a_ledger_that_may_not_be_read_is_not_called_missing(folder: Path) -> None:
    spool = folder / "history.db"
    spool.chmod(0)
    for place in (folder, folder / "logs"):
        done = run_restricted("outbox", "--dir", place)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{spool}: Permission denied" in done.stderr
    spool.chmod(0o600)
    assert run_restricted("outbox", "--dir", folder).stdout == "nothing is set aside\n"
    try:
        folder.chmod(0o300)
        done = run_restricted("outbox", "--dir", folder)
    finally:
        folder.chmod(0o700)
    assert done.returncode == 1
    assert f"{folder}: Permission denied" in done.stderr


def test_a_folder_without_a_ledger_has_none(folder: Path) -> None:
    (folder / "history.db").write_text("this is no database at all")
    done = run("outbox", "--dir", folder)
    assert done.returncode == 1
    assert f"there is no ledger in {folder} or beside it" in done.stderr


def test_the_chart_takes_no_limit(folder: Path) -> None:
    """It counts lines: a limit that is ignored would look like their number."""
    done = run("--dir", folder / "logs", "--stats", "--limit", "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--limit and --stats exclude each other" in done.stderr
    assert len(lines("--dir", folder / "logs", "--jobs", "--limit", "2", "--json")) == 2


def test_each_standard_level_has_its_own_mark_in_the_chart(folder: Path) -> None:
    standard = sorted(levels.NAMES)
    with closing(sqlite3.connect(folder / "logs/current.db")) as connection:
        connection.execute("DELETE FROM logs")
        connection.executemany(
            "INSERT INTO logs VALUES (1, 'mark', 'd', 'n', 1441958425, ?, 'x')", [(level,) for level in standard]
        )
        connection.commit()
    shown = lines("--dir", folder / "logs", "--stats", "--job", "mark", "--colour", "never")
    marks = [line.split()[0] for line in shown if line.startswith("  ")]
    assert len(set(marks)) == len(marks) == len(standard)
    counts = json.loads(lines("--dir", folder / "logs", "--stats", "--job", "mark", "--json")[0])["levels"]
    assert [int(level) for level in counts] == standard
