"""``greenagent-logs`` as people use it: a program of its own, on folders with and without an agent."""

import csv
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from argparse import ArgumentTypeError
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest

from greenagent.cli.logs.options import levels, moment
from greenagent.logs.folder import LogFolder
from greenagent.logs.pieces import Block
from greenagent.logs.read.query import LogQuery
from greenagent.logs.read.scan import Scan
from greenagent.logs.retention import StoreLimits
from greenagent.logs.routes import Routes
from greenagent.values.levels import parse_levels
from greenagent.values.message import Message
from tests.logs.conftest import Stores
from tests.logs.namespaces import run_with_mount
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
ORIGINAL = ROOT / "tests/data/original-logs"
COMMAND = [sys.executable, "-m", "greenagent.cli.logs"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TZ": "UTC", "COLUMNS": "80"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        env=ENVIRONMENT,
    )


def lines(*arguments: object) -> list[str]:
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.fixture
def folder(stores: Stores) -> Path:
    """Two jobs in two files, the agent stopped."""
    store = stores.open()
    first = store.open_job("first", "web", "crawl", Routes(), "")
    second = store.open_job("second", "", "", Routes(), "")
    first.append([Block(1, "one\ntwo\n", 2), Message(7, "careful"), Message(20, '\n{"a": 1}')])
    store.writer.call(lambda writer: writer.rotate())
    first.append([Message(9, "\x1b[31mbad\x1b[0m")])
    second.append([Message(2, "caf\u00e9"), Message(12, "odd")])
    store.stop()
    return stores.folder.path


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


def test_jobs_with_their_counts(folder: Path) -> None:
    table = [line.split() for line in lines("--dir", folder, "--jobs")]
    assert table[0] == ["JOB", "DOMAIN/NAME", "LINES", "FIRST", "LAST", "STATE"]
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
    assert [row[-1] for row in table[1:]] == ["running", "TIMEOUT"]
    # Where the environment tells the agent of another ledger, it tells us.
    spool.rename(tmp_path / "elsewhere.db")
    assert [line.split()[-1] for line in lines("-c", configuration, "--jobs")[1:]] == ["-", "-"]
    monkeypatch.setitem(ENVIRONMENT, "GREENAGENT_MAIN_LEDGER_FILE", str(tmp_path / "elsewhere.db"))
    assert [line.split()[-1] for line in lines("-c", configuration, "--jobs")[1:]] == ["running", "TIMEOUT"]


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


def test_follow_shows_the_last_lines_and_goes_on_across_rotations(stores: Stores) -> None:
    store = stores.open()
    log = store.open_job("j", "", "", Routes(), "")
    log.append([Block(1, "".join(f"old{number}\n" for number in range(30)), 30)])
    store.flush()
    process = subprocess.Popen(
        [*COMMAND, "--dir", str(stores.folder.path), "--follow", "--json", "--limit", "3"],
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    output = b""

    def seen(count: int) -> list[str]:
        nonlocal output
        output += process.stdout.read() or b""  # type: ignore[union-attr]
        texts = [json.loads(line)["data"] for line in output.splitlines(keepends=True) if line.endswith(b"\n")]
        return texts if len(texts) >= count else []

    try:
        assert wait_until(lambda: seen(3), what="the last lines") == ["old27", "old28", "old29"]
        for number in range(6):
            log.append([Message(1, f"new{number}")])
            store.flush()
            if number % 2:
                store.writer.call(lambda writer: writer.rotate())
        expected = ["old27", "old28", "old29", *(f"new{number}" for number in range(6))]
        assert wait_until(lambda: seen(9), what="the new lines") == expected
        archives = stores.folder.archives()
        assert [path for path in archives if path.with_name(path.name + "-wal").exists()] == []
        process.send_signal(signal.SIGINT)
        wait_until(lambda: process.poll() is not None, what="the end")
        assert process.returncode == 130
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_closed_pipe_ends_it_silently(stores: Stores) -> None:
    store = stores.open()
    store.open_job("j", "", "", Routes(), "").append([Block(1, "x\n" * 50_000, 50_000)])
    store.stop()
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m greenagent.cli.logs --dir "{stores.folder.path}" | head -2', sys.executable],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=30,
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 2


FORMS = [(), ("--limit", "100"), ("--jobs",), ("--stats",)]


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


def test_follow_passes_over_a_damaged_file(folder: Path) -> None:
    (folder / "0.db").write_text("hello\n")
    process = subprocess.Popen(
        [*COMMAND, "--dir", str(folder), "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert [process.stdout.readline()[24:35] for _ in range(2)] == ["first stdou"] * 2
        assert "0.db cannot be read" in process.stderr.readline()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("command", [(), ("--jobs",), ("--stats", "--json"), ("--limit", "1"), ("verify",)])
def test_a_folder_without_any_database_is_named(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = run(*command, "--dir", tmp_path)
    assert done.stderr.endswith(f": there is no log database in {tmp_path}\n")
    assert len(done.stderr.splitlines()) == 1
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("form", [*FORMS, ("--json",)])
def test_a_job_without_lines_is_told(folder: Path, form: tuple[str, ...]) -> None:
    done = run("--dir", folder, "--job", "nope", *form)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "greenagent-logs: no lines of job nope\n")
    done = run("--dir", folder, "--job", "first", "--level", "33", *form)
    assert done.stderr == "greenagent-logs: no lines of job first match the rest of the question\n"
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("more", [(), ("--limit", "1"), ("--jobs",), ("--stats", "--json"), ("verify",)])
def test_output_that_cannot_be_written_is_one_clear_line(folder: Path, more: tuple[str, ...]) -> None:
    command = [*more, "--dir", str(folder)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *command], stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=30
        )
    name = "greenagent-logs verify" if "verify" in more else "greenagent-logs"
    assert done.stderr == f"{name}: cannot write the output: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "-c FILE or a folder with --dir"),
        (["--dir", "x", "--limit", "0"], "--limit"),
        (["--dir", "x", "--limit", "many"], "--limit"),
        (["--dir", "x", "--level", "5-1"], "reversed"),
        (["--dir", "x", "--level", "loud"], "'loud' is not a level"),
        (["--dir", "x", "--level", "loud"], "critical"),
        (["--dir", "x", "verify"], "the sub-command comes first: greenagent-logs verify"),
        (["-c", "x", "outbox", "--retry"], "the sub-command comes first: greenagent-logs outbox"),
        (["--dir", "x", "surplus"], "surplus"),
        (["--dir", "x", "--jobs", "--csv", "--json"], "not allowed with"),
        (["--dir", "x", "--grep", "("], "not a regular expression"),
        (["--dir", "x", "--since", "yesterday"], "'yesterday' is no time"),
        (["--dir", "x", "--nonsense"], "--nonsense"),
        (["--dir", "x", "--follow", "--jobs"], "not allowed with"),
        (["--dir", "x", "--csv", "--json"], "not allowed with"),
        (["verify"], "-c FILE or a folder with --dir"),
    ],
)
def test_bad_arguments_end_2_with_one_line(arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr


def test_a_folder_that_is_not_there_is_named_with_its_origin(tmp_path: Path) -> None:
    done = run("--dir", tmp_path / "none")
    assert done.returncode == 1
    assert f"there is no folder {tmp_path}/none: name another with --dir" in done.stderr
    configuration = tmp_path / "agent.toml"
    configuration.write_text(
        '[main]\ngid = 1\nnid = 1\nmessage_id_file = "mid"\nhistory_file = "h"\n'
        '[controllers.main]\nurl = "http://localhost:1"\n'
        f'[logging.db]\ntype = "DB"\nlog_dir = "{tmp_path}/absent"\n'
    )
    done = run("-c", configuration)
    assert done.returncode == 1
    assert f"the log_dir of {configuration}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_configuration_with_problems_suggests_the_folder(tmp_path: Path) -> None:
    done = run("-c", tmp_path / "none.toml")
    assert done.returncode == 1
    assert "--dir DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_logs_of_the_original_agent_are_shown(tmp_path: Path) -> None:
    shutil.copytree(ORIGINAL, tmp_path / "logs")
    shown = lines("--dir", tmp_path / "logs")
    assert len(shown) == 65
    assert "line 0 of the original agent" in shown[0]
    assert "line 24 of the original agent" in shown[-1]


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


def test_reading_beside_a_running_agent_changes_nothing_for_it(stores: Stores) -> None:
    store = stores.open()
    log = store.open_job("j", "", "", Routes(), "")
    log.append([Message(1, "x")])
    store.flush()
    assert len(lines("--dir", stores.folder.path)) == 1
    log.append([Message(1, "y")])
    store.stop()
    assert not list(stores.folder.path.glob("*-wal"))


def test_verify_says_of_each_file_whether_it_is_fine(folder: Path) -> None:
    done = run("verify", "--dir", folder)
    assert done.returncode == 0
    first, second = done.stdout.splitlines()
    assert first.endswith(".db: fine (4 lines, ids 1 to 4)")
    newest = (folder / "current.db").resolve().name
    assert second == f"{newest}: fine (3 lines, ids 5 to 7)", "the link is no file of its own"


def test_verify_finds_what_is_wrong(folder: Path) -> None:
    archive, newest = LogFolder(folder).databases()
    with closing(sqlite3.connect(folder / "current.db")) as connection:
        connection.execute("UPDATE logs SET id = 6 WHERE id = 5")
        connection.commit()
    content = archive.read_bytes()
    archive.write_bytes(content[:8192] + b"\xff" * 4096 + content[12288:])
    (folder / "damaged-1.sqlite").write_bytes(b"")
    (folder / "5.db").write_bytes(b"hello")
    done = run("verify", "--dir", folder, "--json")
    assert done.returncode == 1
    reports = {Path(report["file"]).name: report for report in map(json.loads, done.stdout.splitlines())}
    assert "cannot be read" in reports["5.db"]["problems"][0]
    assert reports[archive.name]["fine"] is False
    assert reports[newest.name]["problems"] == ["1 ids come twice"]
    assert "set aside" in reports["damaged-1.sqlite"]["problems"][0]


def test_verify_accepts_one_wrap_of_the_ids(stores: Stores) -> None:
    stores.ids.write_text(str(0xFFFFFFFF - 2))
    store = stores.open()
    store.open_job("j", "", "", Routes(), "").append([Block(1, "x\n" * 6, 6)])
    store.stop()
    newest = stores.folder.databases()[-1].name
    assert run("verify", "--dir", stores.folder.path).stdout == f"{newest}: fine (6 lines, ids 4294967294 to 3)\n"


def test_verify_knows_files_of_the_original_agent(tmp_path: Path) -> None:
    shutil.copytree(ORIGINAL, tmp_path / "logs")
    done = run("verify", "--dir", tmp_path / "logs")
    assert done.returncode == 0
    assert "1441958400.db: fine (40 lines of the original agent, ids 1 to 40)" in done.stdout


def test_times_are_read_in_every_form() -> None:
    now = datetime(2026, 1, 31, 12, 0)
    assert moment("90s", now) == now.timestamp() - 90
    assert moment("2d", now) == now.timestamp() - 172800
    assert moment("11:30", now) == now.timestamp() - 1800
    assert moment("2026-01-31T10:00", now) == now.timestamp() - 7200
    assert moment("2026-01-31") == datetime(2026, 1, 31).timestamp()
    assert moment("2026-01-31T10:00Z") == datetime(2026, 1, 31, 10, tzinfo=timezone.utc).timestamp()
    assert moment("1769853600") == 1769853600
    for bad in ("", "1", "1y", "soon", "2026-13-01", "99:99", "999999999w"):
        with pytest.raises(ArgumentTypeError, match="is no time"):
            moment(bad, now)


def test_levels_may_be_named() -> None:
    assert str(levels("warning,error,20-23")) == "7-8,20-23"
    with pytest.raises(ArgumentTypeError):
        levels("0")


def test_neither_gevent_nor_the_agent_is_loaded(folder: Path) -> None:
    code = (
        "import sys; from greenagent.cli.logs.__main__ import main; main(['--dir', sys.argv[1], '--limit', '1']);"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('gevent', 'peewee', 'requests')),"
        " 'greenagent.agent' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout.splitlines()[-1] == "[] False"


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


@pytest.mark.parametrize("levels", [None, "1"])
def test_a_reader_says_what_was_removed_before_it_came_to_it(stores: Stores, levels: str | None) -> None:
    """Neither more nor less, whatever of the lines was for controllers alone, or deleted."""
    store = stores.open(limits=StoreLimits(max_dbs=2))
    bits = store.register_pairs(["a"])
    log = store.open_job("j", "", "", Routes(database=parse_levels("1"), pairs=[(bits["a"], parse_levels("2"))]), "")
    told: list[int] = []
    query = LogQuery(levels=parse_levels(levels) if levels else None)
    scan = Scan(stores.folder, query, removed=told.append)

    def write(first: int) -> None:
        log.append([Message(2, "for a"), Message(1, str(first)), Message(2, "for a"), Message(1, str(first + 1))])
        store.flush()
        store.advance("a", store.read_marked("a")[-1].seq)
        store.writer.call(lambda writer: writer.rotate())

    write(0)
    write(2)
    assert [record.data for record in scan.advance()] == ["0", "1", "2", "3"]
    write(4)
    assert [record.data for record in scan.advance()] == ["4", "5"]
    assert store.delete(LogQuery(text="4")) == (1, 0)
    assert told == []
    for first in (6, 8, 10, 12):
        write(first)
    assert [record.data for record in scan.advance()] == ["10", "11", "12", "13"]
    assert told == [8], "two files of four lines, two of them for the controller"
    write(14)
    assert [record.data for record in scan.advance()] == ["14", "15"]
    assert told == [8]


def test_follow_says_what_it_could_not_show(stores: Stores) -> None:
    store = stores.open(limits=StoreLimits(max_dbs=1))
    log = store.open_job("j", "", "", Routes(), "")
    log.append([Message(1, "seen")])
    store.flush()
    process = subprocess.Popen(
        [*COMMAND, "--dir", str(stores.folder.path), "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    output = b""

    def shown(text: bytes) -> bool:
        nonlocal output
        output += process.stdout.read() or b""  # type: ignore[union-attr]
        return text in output

    try:
        wait_until(lambda: shown(b"seen"), what="the first line")
        process.send_signal(signal.SIGSTOP)
        for number in range(5):
            log.append([Message(1, f"gone{number}"), Message(1, "gone")])
            store.writer.call(lambda writer: writer.rotate())
        log.append([Message(1, "the last")])
        store.flush()
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: shown(b"the last"), what="the last line")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    finally:
        process.kill()
    assert said.decode() == "greenagent-logs: up to 8 lines (of all jobs) were removed before they could be shown\n"
