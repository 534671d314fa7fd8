"""``greenagent-logs`` shows lines: for people, as JSON and as CSV, filtered, of folders with and without an agent."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from greenagent.cli.logs.text import wants_colour
from greenagent.logs.write.job_log import Routes
from greenagent.values.message import Message
from greenagent.values.text import visible
from tests.support.log_program import ENVIRONMENT, ORIGINAL, lines, run
from tests.support.open_text import Typing
from tests.support.stores import Stores


def test_oldest_first_with_level_names_and_local_times(folder: Path) -> None:
    shown = lines("--dir", folder)
    assert shown.pop(4) == '    {"a": 1}'
    assert [line[24:] for line in shown] == [
        "first stdout    [web/crawl] one",
        "first stdout    [web/crawl] two",
        "first warning   [web/crawl] careful",
        "first result    [web/crawl]",
        "first critical  [web/crawl] \\x1b[31mbad\\x1b[0m",
        "second stderr    caf\u00e9",
        "second level 12  odd",
    ]
    assert lines("--dir", folder, "--no-prefix", "--level", "2-20") == [
        "careful", "", '{"a": 1}', "\\x1b[31mbad\\x1b[0m", "caf\u00e9", "odd",
    ]  # fmt: skip
    datetime.strptime(shown[0][:23], "%Y-%m-%d %H:%M:%S.%f")


def test_filters(folder: Path) -> None:
    def texts(*arguments: str) -> list[str]:
        return [json.loads(line)["data"] for line in lines("--dir", folder, "--json", *arguments)]

    assert texts("--job", "second") == ["caf\u00e9", "odd"]
    assert texts("--level", "7-9") == ["careful", "\x1b[31mbad\x1b[0m"]
    assert texts("--level", "warning,2") == ["careful", "caf\u00e9"]
    assert texts("--domain", "web", "--limit", "2") == ['\n{"a": 1}', "\x1b[31mbad\x1b[0m"]
    assert texts("--name", "crawl", "--grep", "^t|u") == ["two", "careful"]
    assert texts("--since", "1h", "--limit", "1") == ["odd"]
    assert texts("--until", "1h") == []
    assert texts("--domain", "nobody") == []


def test_json_is_what_controllers_get(folder: Path) -> None:
    record = json.loads(lines("--dir", folder, "--json", "--limit", "1")[0])
    assert list(record) == ["id", "jobid", "domain", "name", "epoch", "epoch_ms", "level", "data"]
    assert record["epoch_ms"] // 1000 == record["epoch"]


def test_csv_holds_every_text(folder: Path) -> None:
    table = list(csv.reader(io.StringIO(run("--dir", folder, "--csv").stdout)))
    assert table[0] == ["id", "jobid", "domain", "name", "epoch", "epoch_ms", "level", "data"]
    assert [row[7] for row in table[1:]][3] == '\n{"a": 1}'
    assert len(table) == 8


def test_colours_only_on_a_terminal_or_when_asked(folder: Path) -> None:
    assert "\x1b" not in run("--dir", folder).stdout
    assert "\x1b[33m" in run("--dir", folder, "--colour", "always").stdout


@pytest.mark.parametrize(
    ("variables", "colours"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"CLICOLOR_FORCE": "1"}, True),
        ({"FORCE_COLOR": "0"}, False),
        ({"FORCE_COLOR": ""}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_the_usual_variables_decide_about_colours(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], colours: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wants_colour("auto", io.StringIO()) is colours
    assert not wants_colour("never", io.StringIO())


def test_logs_of_the_original_agent_are_shown(tmp_path: Path) -> None:
    shutil.copytree(ORIGINAL, tmp_path / "logs")
    shown = lines("--dir", tmp_path / "logs")
    assert len(shown) == 65
    assert "line 0 of the original agent" in shown[0]
    assert "line 24 of the original agent" in shown[-1]


def test_reading_beside_a_running_agent_changes_nothing_for_it(stores: Stores) -> None:
    store = stores.open()
    log = store.open_job("j", "", "", Routes(), "")
    log.append([Message(1, "x")])
    store.flush()
    assert len(lines("--dir", stores.folder.path)) == 1
    log.append([Message(1, "y")])
    store.stop()
    assert not list(stores.folder.path.glob("*-wal"))


def test_neither_gevent_nor_the_agent_is_loaded(folder: Path) -> None:
    code = (
        "import sys; from greenagent.cli.logs.__main__ import main; main(['--dir', sys.argv[1], '--limit', '1']);"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('gevent', 'peewee', 'requests')),"
        " 'greenagent.agent' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout.splitlines()[-1] == "[] False"


HOSTILE = "\x1b[2J\x9b31m\u202etxt\x85\x08end"


def test_control_characters_show_as_escapes_in_every_form_unless_they_are_asked_for(tmp_path: Path) -> None:
    stores = Stores(tmp_path)
    job = stores.open().open_job("j", HOSTILE, HOSTILE, Routes(), "")
    job.append([Message(1, HOSTILE)])
    job.close()
    stores.close()
    folder = tmp_path / "logs"
    for form in ((), ("--csv",), ("--json",), ("--jobs",), ("--jobs", "--csv"), ("--jobs", "--json")):
        for line in lines("--dir", folder, *form):
            assert line.isprintable(), form
    (record,) = map(json.loads, lines("--dir", folder, "--json"))
    assert (record["data"], record["domain"]) == (HOSTILE, HOSTILE)
    assert HOSTILE in run("--dir", folder, "--raw").stdout
    raw = run("--dir", folder, "--csv", "--raw").stdout
    assert next(csv.DictReader(io.StringIO(raw, newline="")))["data"] == HOSTILE


def test_cells_that_spreadsheets_would_take_for_formulas_are_texts_in_csv_unless_asked_for_raw(tmp_path: Path) -> None:
    formulas = ["=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\uff1d1", "=", "-", "-1e"]
    harmless = ["-5", "+5.25", "-.5e-7", "- [ ]"[2:], "a=1", "'=1", "", " =1"]
    stores = Stores(tmp_path)
    job = stores.open().open_job("j", "=domain", "@name", Routes(), "")
    job.append([Message(1, text) for text in formulas + harmless])
    job.close()
    stores.close()

    def cells(*options: str) -> list[dict[str, str]]:
        text = run("--dir", tmp_path / "logs", "--csv", *options).stdout
        return list(csv.DictReader(io.StringIO(text, newline="")))

    shown = cells()
    assert [row["data"] for row in shown] == [f"'{visible(text)}" for text in formulas] + harmless
    assert (shown[0]["domain"], shown[0]["name"]) == ("'=domain", "'@name")
    as_read = [text.replace("\r", "\n") for text in formulas]
    assert [row["data"] for row in cells("--raw")] == as_read + harmless
    assert cells("--jobs")[0]["domain"] == "'=domain"
    assert cells("--jobs", "--raw")[0]["domain"] == "=domain"


def test_unfinished_output_is_shown_as_such_and_is_no_line(typing: Typing) -> None:
    typing.prints("7::whole\n\x1b[1mProceed? [y/N] ")
    assert typing.later(0) == []
    assert typing.later(2)
    place = ["--dir", str(typing.stores.folder.path)]
    whole, prompt = run(*place, "--job", "j").stdout.splitlines()
    assert whole.endswith("whole")
    assert prompt.endswith("stdout    \\x1b[1mProceed? [y/N]  [unfinished]")
    assert len(run(*place, "--job", "j", "--json").stdout.splitlines()) == 1
    assert len(run(*place, "--job", "j", "--csv").stdout.splitlines()) == 2
    assert " 1 " in run(*place, "--jobs").stdout
    assert run(*place, "--level", "8", "--job", "j").stdout == ""
