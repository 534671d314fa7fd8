"""``greenagent-logs --jobs`` and ``--stats``."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from greenagent.values import levels
from tests.support.log_program import ENVIRONMENT, ORIGINAL, lines, run


def test_jobs_with_their_counts(folder: Path) -> None:
    table = [line.split() for line in lines("--dir", folder, "--jobs")]
    assert " ".join(table[0]) == "JOB DOMAIN/NAME LINES START WAITED TOOK EXIT STATE RUN COMMAND"
    assert [row[:3] for row in table[1:]] == [["first", "web/crawl", "5"], ["second", "-", "2"]]
    brief = [json.loads(line) for line in lines("--dir", folder, "--jobs", "--json")]
    assert [(job["jobid"], job["lines"]) for job in brief] == [("first", 5), ("second", 2)]


def test_jobs_and_statistics_as_csv(folder: Path) -> None:
    jobs = list(csv.DictReader(lines("--dir", folder, "--jobs", "--csv")))
    assert [(job["jobid"], job["domain"], job["name"], job["lines"]) for job in jobs] == [
        ("first", "web", "crawl", "5"),
        ("second", "", "", "2"),
    ]
    counted = list(csv.DictReader(lines("--dir", folder, "--stats", "--csv")))
    assert list(counted[0]) == ["minute", "level", "lines"]
    assert sum(int(row["lines"]) for row in counted) == 7
    assert sum(int(row["lines"]) for row in counted if row["level"] == "1") == 2


def test_the_state_of_a_job_comes_from_the_ledger(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / ".history.db"
    with closing(sqlite3.connect(spool)) as connection:
        connection.execute("CREATE TABLE job (row INTEGER PRIMARY KEY, id TEXT, state TEXT)")
        connection.execute("CREATE TABLE outcome (row INTEGER PRIMARY KEY, id TEXT, state TEXT)")
        connection.execute("INSERT INTO job VALUES (1, 'first', 'running'), (2, 'second', 'ended')")
        connection.execute("INSERT INTO outcome VALUES (1, 'second', 'ERROR'), (2, 'second', 'TIMEOUT')")
        connection.commit()
    configuration = tmp_path / "agent.toml"
    configuration.write_text(
        f'[main]\ngid = 1\nnid = 1\nmessage_id_file = "{tmp_path}/mid"\nhistory_file = "{tmp_path}/.history"\n'
        f'[controllers.main]\nurl = "http://localhost:1"\n'
        f'[logging.db]\ntype = "DB"\nlog_dir = "{folder}"\n'
    )
    table = [line.split() for line in lines("-c", configuration, "--jobs")]
    assert [row[-3] for row in table[1:]] == ["running", "TIMEOUT"]
    # Where the environment tells the agent of another ledger, it tells us.
    spool.rename(tmp_path / "elsewhere.db")
    assert [line.split()[-3] for line in lines("-c", configuration, "--jobs")[1:]] == ["-", "-"]
    monkeypatch.setitem(ENVIRONMENT, "GREENAGENT_MAIN_LEDGER_FILE", str(tmp_path / "elsewhere.db"))
    assert [line.split()[-3] for line in lines("-c", configuration, "--jobs")[1:]] == ["running", "TIMEOUT"]


def test_the_chart_counts_levels_by_minute(folder: Path) -> None:
    counted = [json.loads(line) for line in lines("--dir", folder, "--stats", "--json")]
    totals: dict[str, int] = {}
    for minute in counted:
        assert minute["minute"] % 60 == 0
        for level, count in minute["levels"].items():
            totals[level] = totals.get(level, 0) + count
    assert totals == {"1": 2, "2": 1, "7": 1, "9": 1, "12": 1, "20": 1}
    chart = lines("--dir", folder, "--stats")
    assert any("stdout       2" in line for line in chart)
    assert max(len(line) for line in chart) <= 80


def test_the_chart_of_years_stays_small(tmp_path: Path) -> None:
    shutil.copytree(ORIGINAL, tmp_path / "logs")
    with closing(sqlite3.connect(tmp_path / "logs/current.db")) as connection:
        connection.execute("INSERT INTO logs VALUES (99, 'j', '', '', 1700000000, 1, 'x')")
        connection.commit()
    assert len(lines("--dir", tmp_path / "logs", "--stats")) < 70


def test_the_chart_takes_no_limit(agent_folder: Path) -> None:
    """It counts lines: a limit that is ignored would look like their number."""
    done = run("--dir", agent_folder / "logs", "--stats", "--limit", "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--limit and --stats exclude each other" in done.stderr
    assert len(lines("--dir", agent_folder / "logs", "--jobs", "--limit", "2", "--json")) == 2


def test_each_standard_level_has_its_own_mark_in_the_chart(agent_folder: Path) -> None:
    standard = sorted(levels.NAMES)
    with closing(sqlite3.connect(agent_folder / "logs/current.db")) as connection:
        connection.execute("DELETE FROM logs")
        connection.executemany(
            "INSERT INTO logs VALUES (1, 'mark', 'd', 'n', 1441958425, ?, 'x')", [(level,) for level in standard]
        )
        connection.commit()
    shown = lines("--dir", agent_folder / "logs", "--stats", "--job", "mark", "--colour", "never")
    marks = [line.split()[0] for line in shown if line.startswith("  ")]
    assert len(set(marks)) == len(marks) == len(standard)
    counts = json.loads(lines("--dir", agent_folder / "logs", "--stats", "--job", "mark", "--json")[0])["levels"]
    assert [int(level) for level in counts] == standard
