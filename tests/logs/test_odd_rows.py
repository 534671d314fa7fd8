"""Rows that another program wrote: no number where one belongs must neither end a question nor change the others."""

import csv
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from greenagent.logs.folder import LogFolder
from greenagent.logs.read.query import LogQuery, newest_first
from greenagent.values.levels import parse_levels
from greenagent.values.message import Message
from tests.support.builtins import ask_store
from tests.support.log_program import run
from tests.support.stores import Stores, job

TABLE = "CREATE TABLE logs (id {0}, jobid text, domain text, name text, epoch {0}, level {0}, data text)"
ODD = ("'abc'", "NULL", "1e300", "9e999", "-9e999", "x'00ff'", "9223372036854775807", "-9223372036854775808", "-0.4")
FORMS = ((), ("--json",), ("--csv",), ("--jobs",), ("--jobs", "--json"), ("--stats",), ("--stats", "--json"))


def odd_rows(folder: Path, kind: str) -> None:
    folder.mkdir()
    with closing(sqlite3.connect(folder / "1441958400.db")) as connection:
        connection.execute(TABLE.format(kind))
        connection.execute("INSERT INTO logs VALUES (1, 'good', 'd', 'n', 1441958399, 1, 'fine')")
        for value in ODD:
            for values in (f"{value}, 1441958399, 2", f"1, {value}, 2", f"1, 1441958399, {value}"):
                number, epoch, level = values.split(", ")
                connection.execute(f"INSERT INTO logs VALUES ({number}, 'odd', 'd', 'n', {epoch}, {level}, 'x')")
        connection.commit()


@pytest.mark.parametrize("kind", ["integer", ""])
def test_the_reading_tool_shows_them_in_every_form(tmp_path: Path, kind: str) -> None:
    odd_rows(tmp_path / "logs", kind)
    for form in FORMS:
        done = run("--dir", tmp_path / "logs", *form)
        assert (done.returncode, done.stderr) == (0, ""), form
        if "--json" in form:
            for line in done.stdout.splitlines():
                json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
        if form == ("--csv",):
            assert len(list(csv.reader(io.StringIO(done.stdout)))) == 2 + 3 * len(ODD)
    done = run("verify", "--json", "--dir", tmp_path / "logs")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["lines"] == 1 + 3 * len(ODD)


@pytest.mark.parametrize("kind", ["integer", ""])
def test_what_is_no_number_counts_as_zero(tmp_path: Path, kind: str) -> None:
    odd_rows(tmp_path / "logs", kind)
    found = list(newest_first(LogFolder(tmp_path / "logs"), LogQuery(jobid="odd", limit=0)))[::-1]
    assert [record.id for record in found[::3]] == [0, 0, 0, 0, 0, 0, 2**63 - 1, -(2**63), 0]
    assert [record.level for record in found[2::3]] == [0, 0, 0, 0, 0, 0, 2**63 - 1, -(2**63), 0]
    every_second = parse_levels(",".join(map(str, range(1, 300, 2))))
    query = LogQuery(levels=every_second, limit=0)
    assert [record.data for record in newest_first(LogFolder(tmp_path / "logs"), query)] == ["fine"]
    epochs = [record.to_wire()["epoch_ms"] for record in found[1::3]]
    assert epochs == [0, 0, 0, 0, 0, 0, 0, 0, -400], "a time no calendar reaches is none"
    summary = json.loads(run("--dir", tmp_path / "logs", "--jobs", "--json", "--job", "odd").stdout)
    assert (summary["lines"], summary["first"], summary["last"]) == (3 * len(ODD), -0.4, 1441958399)
    [minute, *_] = map(json.loads, run("--dir", tmp_path / "logs", "--stats", "--json").stdout.splitlines())
    assert minute == {"minute": 0, "levels": {"2": len(ODD)}}


def test_get_msgs_answers_over_them(tmp_path: Path) -> None:
    odd_rows(tmp_path / "logs", "integer")
    stores = Stores(tmp_path)
    try:
        answer = ask_store(stores.open(), "get_msgs", {})
    finally:
        stores.close()
    records = json.loads(answer.data, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert len(records) == 1 + 3 * len(ODD)
    assert records[-1] == {
        "id": 1,
        "jobid": "good",
        "domain": "d",
        "name": "n",
        "epoch": 1441958399,
        "epoch_ms": 1441958399000,
        "level": 1,
        "data": "fine",
    }


def test_verify_counts_ids_that_are_no_numbers(stores: Stores) -> None:
    store = stores.open()
    job(store).append([Message(1, "one"), Message(1, "two")])
    stores.close()
    with closing(sqlite3.connect(stores.folder.current)) as connection:
        connection.execute("UPDATE logs SET id = 'abc' WHERE data = 'two'")
        connection.commit()
    done = run("verify", "--dir", stores.folder.path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "1 ids are no numbers" in done.stdout


def test_a_job_whose_texts_are_bytes_is_shown(tmp_path: Path) -> None:
    odd_rows(tmp_path / "logs", "integer")
    with closing(sqlite3.connect(tmp_path / "logs/1441958400.db")) as connection:
        connection.execute("INSERT INTO logs VALUES (1, x'6a', x'64', x'ff', 1441958399, 1, x'78')")
        connection.commit()
    [record] = newest_first(LogFolder(tmp_path / "logs"), LogQuery(limit=1))
    assert (record.jobid, record.domain, record.name, record.data) == ("j", "d", "\\xff", "x")
    summaries = [json.loads(line) for line in run("--dir", tmp_path / "logs", "--jobs", "--json").stdout.splitlines()]
    assert ["j", "d", "\\xff"] in [[each["jobid"], each["domain"], each["name"]] for each in summaries]
