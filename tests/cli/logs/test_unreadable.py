"""What ``greenagent-logs`` says where it cannot read or write, or finds nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from greenagent.logs.lines import Block
from greenagent.logs.write.job_log import Routes
from greenagent.logs.write.retention import StoreLimits
from greenagent.values.message import Message
from tests.support.log_program import COMMAND, ENVIRONMENT, FORMS, lines, run
from tests.support.namespaces import run_with_mount
from tests.support.stores import Stores


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["0.db", "current.db"])
def test_a_damaged_file_does_not_hide_the_others(folder: Path, name: str, form: tuple[str, ...]) -> None:
    path = (folder / name).resolve()
    path.write_text("hello\n")
    done = run("--dir", folder, "--job", "first", *form)
    warning = f"greenagent-logs: warning: {path} cannot be read: file is not a database\n"
    assert done.stderr == warning
    assert ("careful" if form in FORMS[:2] else "first" if "--jobs" in form else "warning") in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize("command", [(), ("--jobs",), ("--stats", "--json"), ("--limit", "1"), ("verify",)])
def test_a_folder_without_any_database_is_named(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = run(*command, "--dir", tmp_path)
    assert done.stderr.endswith(f": there is no log database in {tmp_path}\n")
    assert len(done.stderr.splitlines()) == 1
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("form", [*FORMS, ("--json",)])
def test_a_job_without_lines_is_told(folder: Path, form: tuple[str, ...]) -> None:
    done = run("--dir", folder, "--job", "nope", *form)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"greenagent-logs: there is no job nope in {folder}\n"
    done = run("--dir", folder, "--job", "first", "--level", "33", *form)
    what = "no runs" if "--jobs" in form else "no lines"
    assert done.stderr == f"greenagent-logs: {what} of job first match the rest of the question\n"
    assert (done.returncode, done.stdout) == (0, "")


def test_a_closed_pipe_ends_it_silently(stores: Stores) -> None:
    store = stores.open()
    store.open_job("j", "", "", Routes(), "").append([Block(1, "x\n" * 50_000, 50_000)])
    store.stop()
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m greenagent.cli.logs --dir "{stores.folder.path}" | head -2', sys.executable],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=60,
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("more", [(), ("--limit", "1"), ("--jobs",), ("--stats", "--json"), ("verify",)])
def test_output_that_cannot_be_written_is_one_clear_line(folder: Path, more: tuple[str, ...]) -> None:
    command = [*more, "--dir", str(folder)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *command], stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=60
        )
    name = "greenagent-logs verify" if "verify" in more else "greenagent-logs"
    assert done.stderr == f"{name}: cannot write the output: No space left on device\n"
    assert done.returncode == 1


def shown_read_only(folder: Path) -> list[str]:
    """What the tool shows of a folder in which nobody can write."""
    mount = 'mount --bind "$FOLDER" "$FOLDER" && mount -o remount,bind,ro "$FOLDER"'
    script = '! touch "$FOLDER/x" 2>/dev/null && "$PYTHON" -m greenagent.cli.logs --dir "$FOLDER"'
    return run_with_mount(mount, script, FOLDER=folder, TZ="UTC").splitlines()


def test_a_folder_one_may_only_read_after_a_clean_stop(folder: Path) -> None:
    assert len(shown_read_only(folder)) == 8


def test_a_folder_one_may_only_read_after_a_crash(stores: Stores, tmp_path: Path) -> None:
    """The write-ahead log is left over: it is read from a copy, and nothing is changed."""
    store = stores.open()
    store.open_job("j", "", "", Routes(), "").append([Block(1, "one\ntwo\n", 2)])
    store.flush()
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    newest = stores.folder.databases()[-1]
    for path in (newest, newest.with_name(newest.name + "-wal")):
        shutil.copy(path, crashed)
    before = {path.name: path.read_bytes() for path in crashed.iterdir()}
    assert [line[24:] for line in shown_read_only(crashed)] == ["j stdout    one", "j stdout    two"]
    assert {path.name: path.read_bytes() for path in crashed.iterdir()} == before


def test_pipes_among_the_databases_are_passed_over(folder: Path) -> None:
    """Opening one would wait for ever."""
    os.mkfifo(folder / "123.db")
    assert len(lines("--dir", folder)) == 8
    assert len(lines("--dir", folder, "--limit", "2")) == 2
    assert len(lines("verify", "--dir", folder)) == 2
    for kind in ("--jobs", "--stats"):
        assert lines("--dir", folder, kind)
    (folder / "current.db").unlink()
    os.mkfifo(folder / "current.db")
    done = run("--dir", folder, "--json")
    assert len(done.stdout.splitlines()) == 7, "the files themselves have other names"
    assert "Traceback" not in done.stderr


def test_an_agent_starts_beside_pipes(stores: Stores) -> None:
    stores.folder.create()
    os.mkfifo(stores.folder.path / "123.db")
    os.mkfifo(stores.folder.current)
    store = stores.open(limits=StoreLimits(max_dbs=1))
    store.open_job("j", "", "", Routes(), "").append([Message(1, "x")])
    store.stop()
    assert len(lines("--dir", stores.folder.path)) == 1
