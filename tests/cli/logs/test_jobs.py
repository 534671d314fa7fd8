"""``greenagent-logs --jobs``: every run is found, by whatever is known of it; jobs by how their ids begin."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from greenagent.cli.common import state_and_why
from greenagent.cli.logs.__main__ import show_logs
from greenagent.logs.runs import RunRecord
from greenagent.logs.write.job_log import Routes
from greenagent.values.message import Message
from tests.support.ctl import Terminal
from tests.support.log_program import ORIGINAL, lines, run
from tests.support.stores import Stores

NIGHT = 1_796_000_000.0
"""2026-11-30 00:53:20 UTC."""
RUNS = [
    # id, run, name, command, waited, started, took, exit code, signal, state, reason
    ("silent1", 1, "sh", "sh -c 'exit 9'", 0.5, 0, 0.1, 9, None, "ERROR", "exit code 9"),
    ("4766fcd6-aa", 1, "backup", "backup --all /srv", 61, 60, 3600, 0, None, "SUCCESS", ""),
    ("4766fcd6-bb", 1, "backup", "backup --all /home", 0, 120, 2, None, "SIGKILL", "KILLED", "ended by SIGKILL"),
    ("absent", 1, "/no/such", "/no/such -x", 0, 180, 0, None, None, "ERROR", "cannot start /no/such: it is not there"),
    ("again", 1, "sh", "sh check", 0, 240, 1, 3, None, "ERROR", "exit code 3"),
    ("again", 2, "sh", "sh check", 1, 300, 1, 0, None, "SUCCESS", ""),
    ("late", 1, "sleep", "sleep 100", 0, 360, None, None, None, None, ""),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    stores = Stores(tmp_path_factory.mktemp("runs"))
    store = stores.open()
    for jobid, run_number, name, command, waited, start, took, code, signal, state, reason in RUNS:
        started = NIGHT + start
        used = (None, None) if jobid == "absent" else (0.25, 1 << 20)
        record = RunRecord(
            int(started * 1e6), jobid, run_number, "main", "web", name, command, started - waited, started,
            None if took is None else started + took, code, signal, state, reason, *used,
        )  # fmt: skip
        store.put_run(record._replace(ended=None, exit_code=None, signal=None, state=None, reason=""))
        if jobid == "4766fcd6-aa":
            log = store.open_job(jobid, "web", "backup", Routes(), "")
            log.append([Message(1, "one"), Message(7, "careful")])
            store.intake.call(store.writer.rotate)
        if took is not None:
            store.put_run(record)
    store.stop()
    yield stores.folder.path
    stores.close()


def ids(folder: Path, *arguments: object) -> list[str]:
    done = run("--dir", folder, "--jobs", "--json", *arguments)
    assert done.returncode == 0
    return [json.loads(line)["jobid"] for line in done.stdout.splitlines()]


def test_the_table_has_times_ends_and_commands(runs: Path) -> None:
    table = [line.split(maxsplit=10) for line in lines("--dir", runs, "--jobs")]
    assert table[0][3:] == ["START", "WAITED", "TOOK", "EXIT", "STATE", "RUN", "COMMAND"]
    assert table[1] == [
        "silent1",
        "web/sh",
        "0",
        "2026-11-30",
        "00:53:20",
        "0.5s",
        "0.1s",
        "9",
        "ERROR",
        "1",
        "sh -c 'exit 9'",
    ]
    assert table[2] == [
        "4766fcd6-aa", "web/backup", "2", "2026-11-30", "00:54:20", "1m01s", "1h00m", "0", "SUCCESS", "1",
        "backup --all /srv",
    ]  # fmt: skip
    assert table[3][7:9] == ["SIGKILL", "KILLED"]
    assert table[4][3:8] == ["-", "0.0s", "-", "-", "ERROR"]
    assert table[5][5:10] == ["-", "1.0s", "0", "SUCCESS", "2"]
    assert table[6][5:10] == ["0.0s", "-", "-", "RUNNING", "1"]
    assert len(table) == 7, "one row for each job"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--state", "failed"], ["silent1", "4766fcd6-bb", "absent", "again"]),
        (["--state", "killed,success"], ["4766fcd6-aa", "4766fcd6-bb", "again"]),
        (["--state", "KILLED", "--state", "running"], ["4766fcd6-bb", "late"]),
        (["--since", "2026-11-30T00:56Z"], ["absent", "again", "late"]),
        (["--since", "2026-11-30T00:54Z", "--until", "2026-11-30T00:55:20Z"], ["4766fcd6-aa", "4766fcd6-bb"]),
        (["--name", "backup"], ["4766fcd6-aa", "4766fcd6-bb"]),
        (["--command", "/(home|no)"], ["4766fcd6-bb", "absent"]),
        (["--grep", "careful"], ["4766fcd6-aa"]),
        (["--domain", "db"], []),
        (["--sort", "took", "--limit", "2"], ["4766fcd6-bb", "4766fcd6-aa"]),
        (["--sort", "waited", "--limit", "1"], ["4766fcd6-aa"]),
        (["--sort", "exit", "--limit", "3"], ["4766fcd6-bb", "absent", "late"]),
        (["--sort", "job", "--limit", "1"], ["silent1"]),
        (["--job", "again"], ["again", "again"]),
        (["--job", "again", "--state", "error"], ["again"]),
    ],
)
def test_jobs_are_filtered_and_sorted(runs: Path, arguments: list[str], found: list[str]) -> None:
    assert ids(runs, *arguments) == found


def test_each_form_carries_all_that_is_known(runs: Path) -> None:
    done = lines("--dir", runs, "--jobs", "--json", "--job", "silent1")
    assert [json.loads(line) for line in done] == [
        {
            "jobid": "silent1", "domain": "web", "name": "sh", "lines": 0, "first": None, "last": None,
            "state": "ERROR", "runs": 1, "run": 1, "controller": "main",
            "accepted": NIGHT - 0.5, "started": NIGHT, "ended": NIGHT + 0.1,
            "waited": 0.5, "took": 0.1, "exit_code": 9, "signal": None, "reason": "exit code 9", "cpu": 0.25,
            "memory": 1 << 20, "command": "sh -c 'exit 9'", "kind": "",
        }
    ]  # fmt: skip
    (row,) = csv.DictReader(lines("--dir", runs, "--jobs", "--csv", "--job", "absent"))
    assert (row["state"], row["exit_code"], row["reason"]) == ("ERROR", "", "cannot start /no/such: it is not there")
    assert json.loads(lines("--dir", runs, "--jobs", "--json", "--name", "sh")[-1])["runs"] == 2


@pytest.mark.parametrize(
    ("job", "says"),
    [
        ("silent1", "it ran 2026-11-30 00:53:20 for 0.1s, exit 9 (ERROR): sh -c 'exit 9'"),
        ("absent", "; it never ran, ERROR (cannot start /no/such: it is not there): /no/such -x"),
        ("again", "it ran 2 times, last 2026-11-30 00:58:20 for 1.0s, exit 0 (SUCCESS)"),
        ("late", "it runs since 2026-11-30 00:59:20: sleep 100"),
    ],
)
def test_of_a_job_that_printed_nothing_is_told_how_it_ran(runs: Path, job: str, says: str) -> None:
    done = run("--dir", runs, "--job", job)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(f"greenagent-logs: no lines of job {job}; ")
    assert says in done.stderr


def test_the_beginning_of_an_id_is_enough_where_it_is_one_of_a_kind(runs: Path) -> None:
    assert [line.split()[-1] for line in lines("--dir", runs, "--job", "4766fcd6-a")] == ["one", "careful"]
    assert ids(runs, "--job", "abs") == ["absent"]
    done = run("--dir", runs, "--job", "4766")
    assert (done.returncode, done.stdout) == (1, "")
    assert "several jobs begin with 4766: 4766fcd6-aa, 4766fcd6-bb" in done.stderr
    done = run("--dir", runs, "--jobs", "--job", "4767")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"there is no job 4767 in {runs}" in done.stderr


def test_ids_are_shortened_to_what_means_one_where_a_terminal_is_too_narrow(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    with redirect_stdout(Terminal()) as out:
        assert show_logs(["--dir", str(runs), "--jobs", "--job", "4766fcd6-a"]) == 0
    row = out.getvalue().splitlines()[1]
    assert row.split()[0] == "4766fcd6-a"
    assert "backup --all /srv" in row


def test_ids_of_an_original_agent_are_found_by_their_beginning(tmp_path: Path) -> None:
    shutil.copytree(ORIGINAL, tmp_path / "logs")
    known = sorted({json.loads(line)["jobid"] for line in lines("--dir", tmp_path / "logs", "--json")})
    done = run("--dir", tmp_path / "logs", "--job", known[0][:9])
    assert (done.returncode, done.stdout) == (1, "")
    assert f"several jobs begin with {known[0][:9]}: {known[0]}, {known[1]}" in done.stderr


def test_a_narrow_question_about_jobs_is_answered_in_words(runs: Path) -> None:
    done = run("--dir", runs, "--jobs", "--state", "timeout")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "greenagent-logs: no job matches\n")


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (("ERROR", "exit code 3", "3"), "ERROR"),
        (("ERROR", "ended by SIGSEGV", "SIGSEGV", "recurring"), "ERROR (recurring)"),
        (("KILLED", "the agent was stopped", "SIGTERM", "service"), "KILLED (service, the agent was stopped)"),
        (("ERROR", "two\nlines", ""), "ERROR (two)"),
    ],
)
def test_a_state_is_shown_with_what_nothing_else_in_its_row_tells(told: tuple[str, ...], shown: str) -> None:
    assert state_and_why(*told) == shown
