"""The options of ``greenagent-logs``, and what it says to those that cannot be used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from greenagent.cli.common import UsageError
from greenagent.cli.lines import levels as read_levels
from greenagent.cli.moments import duration, moment
from tests.support.log_program import lines, run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a folder with --dir DIR, or the agent"),
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
        (["--dir", "x", "--since", "last year"], "'last year' is no time"),
        (["--dir", "x", "--dir", "y"], "--dir is given twice"),
        (["--dir", "x", "--state", "failed"], "are for --jobs"),
        (["--dir", "x", "--jobs", "--state", "failed,odd"], "'odd' is no state: say"),
        (["--dir", "x", "--jobs", "--sort", "speed"], "there is no 'speed'"),
        (["--dir", "x", "--nonsense"], "--nonsense"),
        (["--dir", "x", "--follow", "--jobs"], "not allowed with"),
        (["--dir", "x", "--csv", "--json"], "not allowed with"),
        (["--dir", "x", "--no-prefix", "--stats"], "--no-prefix is for lines"),
        (["verify"], "name a folder with --dir DIR, or the agent"),
    ],
)
def test_bad_arguments_end_2_with_one_line(arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr


def test_each_mistake_of_a_configuration_has_a_line_of_its_own(tmp_path: Path) -> None:
    configuration = tmp_path / "agent.toml"
    configuration.write_text('[main]\ngid = "x"\nnid = "y"\n[controllers.main]\nurl = "nowhere"\n')
    done = run("-c", configuration)
    assert (done.returncode, done.stdout) == (1, "")
    told = done.stderr.splitlines()
    assert len(told) >= 3
    assert all(line.startswith(f"greenagent-logs: {configuration}") for line in told)
    assert "\\n" not in done.stderr
    assert told[-1].endswith("(or name the folder with --dir DIR)")


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


def test_times_are_read_in_every_form() -> None:
    now = datetime(2026, 1, 31, 12, 0).timestamp()
    assert moment("90s", now) == now - 90
    assert moment("2d", now) == now - 172800
    assert moment("11:30", now) == now - 1800
    assert moment("2026-01-31T10:00", now) == now - 7200
    assert moment("2026-01-31") == datetime(2026, 1, 31).timestamp()
    assert moment("2026-01-31T10:00Z") == datetime(2026, 1, 31, 10, tzinfo=timezone.utc).timestamp()
    assert moment("1769853600") == 1769853600
    assert moment("1w", now) == now - 604800
    assert moment("yesterday", now) == datetime(2026, 1, 30).timestamp()
    assert moment("Yesterday 9:05", now) == datetime(2026, 1, 30, 9, 5).timestamp()
    assert moment("today", now) == datetime(2026, 1, 31).timestamp()
    for bad in ("", "1", "tomorrow", "yesterday noon", "1y", "soon", "2026-13-01", "99:99", "999999999w"):
        with pytest.raises(UsageError, match="is no time"):
            moment(bad, now)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0.04, "0.0s"),
        (59.9, "59.9s"),
        (59.96, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (183600, "2d03h"),
    ],
)
def test_durations_are_short(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def use(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield use
    monkeypatch.undo()
    time.tzset()


CHANGE_TO_SUMMER = 1774746000.0
"""2026-03-29 01:00 UTC: 02:00 to 03:00 did not exist in Central Europe."""
CHANGE_TO_WINTER = 1792890000.0
"""2026-10-25 01:00 UTC: 02:00 to 03:00 came twice."""
CENTRAL_EUROPE = "CET-1CEST,M3.5.0,M10.5.0/3"


@pytest.mark.parametrize(
    "now", [CHANGE_TO_SUMMER + 60, CHANGE_TO_SUMMER + 1800, CHANGE_TO_WINTER + 60, CHANGE_TO_WINTER + 900]
)
def test_a_span_is_one_of_seconds_also_over_a_change_of_the_clock(zone: Callable[[str], None], now: float) -> None:
    zone(CENTRAL_EUROPE)
    for text, seconds in (("5m", 300), ("59m", 3540), ("1h", 3600), ("61m", 3660), ("1d", 86400)):
        assert moment(text, now) == now - seconds


def test_a_time_that_the_clock_left_out_is_the_moment_of_its_change(zone: Callable[[str], None]) -> None:
    zone(CENTRAL_EUROPE)
    for text in ("02:00", "02:00:01", "02:30", "2026-03-29T02:59:59.5"):
        assert moment(text, CHANGE_TO_SUMMER + 7200) == CHANGE_TO_SUMMER
    assert moment("01:59:59", CHANGE_TO_SUMMER + 7200) == CHANGE_TO_SUMMER - 1
    assert moment("03:00", CHANGE_TO_SUMMER + 7200) == CHANGE_TO_SUMMER
    assert moment("2026-10-25T02:30") == CHANGE_TO_WINTER - 1800
    assert moment("2026-10-25T02:30+01:00") == CHANGE_TO_WINTER + 1800


def test_levels_may_be_named() -> None:
    assert str(read_levels("warning,error,20-23")) == "7-8,20-23"
    with pytest.raises(UsageError):
        read_levels("0")


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


def test_a_reader_needs_none_of_the_agents_certificates(agent_folder: Path) -> None:
    config = agent_folder / "agent.toml"
    config.write_text(CONFIGURATION.format(folder=agent_folder))
    assert len(lines("-c", config, "--limit", "2")) == 2
    assert lines("verify", "-c", config)
    assert lines("outbox", "-c", config) == ["nothing is set aside"]


def test_the_logs_of_a_job_named_two_dashes_are_asked_for(agent_folder: Path) -> None:
    done = run("--dir", agent_folder / "logs", "--job=--")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no job -- in" in done.stderr
