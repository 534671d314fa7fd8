"""Questions to all databases at once, newest first (protocol 6.2)."""

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import hypothesis.strategies as st
import pytest

from greenagent.logs.folder import LogFolder, reading
from greenagent.logs.lines import Block
from greenagent.logs.read.query import LogQuery, literal_in, newest_first, spans_of
from greenagent.logs.read.scan import Scan
from greenagent.logs.write.job_log import Routes
from greenagent.values.errors import GreenagentError
from greenagent.values.levels import parse_levels
from greenagent.values.message import Message
from tests.support.properties import example, given
from tests.support.stores import Stores, job

ORIGINAL = Path(__file__).parents[1] / "data/original-logs"


def ask(folder: LogFolder, **filters) -> list[str]:  # type: ignore[no-untyped-def]
    return [record.data for record in newest_first(folder, LogQuery(**filters))]


@pytest.fixture
def original(tmp_path: Path) -> LogFolder:
    """A folder as the original agent left it (schema of protocol 6.1)."""
    return LogFolder(Path(shutil.copytree(ORIGINAL, tmp_path / "original")))


@pytest.fixture
def three(stores: Stores) -> LogFolder:
    """Two jobs over three files."""
    store = stores.open()
    for number in range(3):
        store.open_job("a", "web", "crawl", job(store).routes, "").append([Message(1, f"a{number}")])
        store.open_job("b", "db", "dump", job(store).routes, "").append([Message(7, f"b{number} 100%")])
        if number < 2:
            store.intake.call(store.writer.rotate)
    store.flush()
    return stores.folder


def test_newest_first_over_all_files(three: LogFolder) -> None:
    assert ask(three) == ["b2 100%", "a2", "b1 100%", "a1", "b0 100%", "a0"]
    assert ask(three, limit=3) == ["b2 100%", "a2", "b1 100%"]


def test_each_filter(three: LogFolder) -> None:
    assert ask(three, jobid="a") == ["a2", "a1", "a0"]
    assert ask(three, domain="db", limit=1) == ["b2 100%"]
    assert ask(three, name="crawl", limit=1) == ["a2"]
    assert ask(three, levels=parse_levels("7"), limit=2) == ["b2 100%", "b1 100%"]
    assert ask(three, levels=parse_levels(",".join(str(n) for n in range(1, 300, 2))), name="crawl") == [
        "a2",
        "a1",
        "a0",
    ]
    assert ask(three, text="1 100%") == ["b1 100%"]
    assert ask(three, regex="^[ab]1") == ["b1 100%", "a1"]
    assert ask(three, jobid="nobody") == []


def test_a_bad_expression_is_refused(three: LogFolder) -> None:
    with pytest.raises(GreenagentError, match="not a regular expression"):
        ask(three, regex="(")


def test_times_include_their_whole_second(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores.open()
    log = job(store)
    for stamp in (1000.0, 1000.999, 1001.0, 1002.5):
        monkeypatch.setattr("greenagent.logs.write.job_log.time.time", lambda stamp=stamp: stamp)
        log.append([Message(1, str(stamp))])
    monkeypatch.undo()
    store.flush()
    assert ask(stores.folder, time_from=1000, time_to=1000) == ["1000.999", "1000.0"]
    assert ask(stores.folder, time_from=1000.5) == ["1002.5", "1001.0", "1000.999", "1000.0"]
    assert ask(stores.folder, time_from=1001, time_to=1002) == ["1002.5", "1001.0"]


def test_files_of_the_original_agent_are_read(original: LogFolder) -> None:
    found = list(newest_first(original, LogQuery(limit=2)))
    assert [record.id for record in found] == [65, 64]
    assert found[0].to_wire()["epoch_ms"] == found[0].to_wire()["epoch"] * 1000
    assert len(ask(original, limit=0)) == 65
    assert ask(original, levels=parse_levels("20"), jobid="2f0b0c4c-0000-4000-8000-000000000001", limit=1) == [
        "line 39 of the original agent"
    ]
    assert len(ask(original, time_from=1441958401, limit=0)) == 24


def test_archives_from_before_the_time_are_not_even_opened(original: LogFolder) -> None:
    (original.path / "1441958400.db").write_bytes(b"unreadable")
    assert len(ask(original, time_from=1441958402)) == 23
    with pytest.raises(GreenagentError, match=r"1441958400\.db cannot be read"):
        ask(original)


def test_a_file_without_its_table_holds_nothing(original: LogFolder) -> None:
    original.current.write_bytes(b"")
    assert len(ask(original)) == 40


def test_a_jobs_lines_are_found_by_their_spans_alone(stores: Stores) -> None:
    """Lines of others are not read: the plan is a range of the key per span, and spans of one job grow together."""
    store = stores.open()
    quiet, chatty = store.open_job("quiet", "", "", Routes(), ""), job(store)
    for number in range(5):
        quiet.append([Message(1, f"{number}a")])
        store.flush()
        quiet.append([Message(1, f"{number}b")])
        chatty.append([Block(1, "x\n" * 100, 100)])
    store.flush()
    with reading(stores.folder.current) as connection:
        assert spans_of(connection, "quiet", None) == [(409, 410), (307, 308), (205, 206), (103, 104), (1, 2)]
        assert spans_of(connection, "quiet", 205) == [(205, 206), (307, 308), (409, 410)]
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT data FROM logs WHERE jobid = 'j' AND seq BETWEEN 1 AND 9 ORDER BY seq DESC"
        ).fetchall()
    assert [row[3] for row in plan] == ["SEARCH logs USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"]
    assert ask(stores.folder, jobid="quiet", limit=3) == ["4b", "4a", "3b"]
    scan = Scan(stores.folder, LogQuery(jobid="quiet"))
    assert [record.data for record in scan.advance()] == [f"{number}{half}" for number in range(5) for half in "ab"]


def test_a_query_sees_what_was_flushed_while_a_job_goes_on(stores: Stores) -> None:
    store = stores.open()
    log = job(store)
    for number in range(20):
        log.append([Message(1, str(number))])
        store.flush()
        assert store.query(LogQuery(jobid="j", limit=1))[0].data == str(number)


@pytest.mark.parametrize(
    ("expression", "literal"),
    [
        ("foobar", "foobar"),
        ("foo.*barrel$", "barrel"),
        (r"took \d+\.5 s", "took "),
        ("[]a]xx[^]]", "xx"),
        ("colou?r", "colo"),
        ("ab*?cde", "cde"),
        (r"\[error\]", "[error]"),
        ("one|other", ""),
        ("(?i)error", ""),
        (r"\x41bc", ""),
        (r"a\ud800", ""),
    ],
)
def test_the_literal_part_of_an_expression(expression: str, literal: str) -> None:
    assert literal_in(expression) == literal
    assert literal_in("a\ud800") == ""


@given(st.lists(st.sampled_from([*"ab.*+?[]^$-|()", r"\.", r"\d", r"\b", r"\\"])).map("".join), st.text("ab.[]^-1\\"))
@example("a?b", "b")
@example("[]b]*a", "a")
def test_what_matches_an_expression_contains_its_literal_part(expression: str, text: str) -> None:
    try:
        matches = re.search(expression, text)
    except re.error:
        return
    if matches:
        assert literal_in(expression) in text


def test_text_that_is_no_utf8_is_shown_amid_the_others(three: LogFolder) -> None:
    with closing(sqlite3.connect(three.databases()[-1])) as other:
        other.execute("UPDATE logs SET data = CAST(x'61ff62' AS TEXT) WHERE jobid = 'a'")
        other.commit()
    assert ask(three) == ["b2 100%", r"a\xffb", "b1 100%", "a1", "b0 100%", "a0"]
