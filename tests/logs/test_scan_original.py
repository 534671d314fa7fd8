"""Following the original agent, which knows no seq: its files have a place each, whatever they are called by now."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from greenagent.logs.folder import LogFolder
from greenagent.logs.read.query import LogQuery
from greenagent.logs.read.scan import Scan

ORIGINAL = Path(__file__).parents[1] / "data/original-logs"
COLUMNS = "id integer not null, jobid text, domain text, name text, epoch integer, level integer, data text"


@pytest.fixture
def folder(tmp_path: Path) -> LogFolder:
    return LogFolder(Path(shutil.copytree(ORIGINAL, tmp_path / "original")))


def write(path: Path, *texts: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        if not connection.execute("PRAGMA table_info(logs)").fetchall():
            connection.execute(f"CREATE TABLE logs ({COLUMNS})")
        connection.executemany(
            "INSERT INTO logs VALUES (1, 'j', 'd', 'n', 1441958426, 1, ?)", [(text,) for text in texts]
        )
        connection.commit()


def advance(scan: Scan) -> list[str]:
    return [record.data for record in scan.advance()]


def test_its_rotation_shows_no_line_again_and_leaves_none_out(folder: LogFolder) -> None:
    scan = Scan(folder, LogQuery())
    scan.skip_to_end()
    write(folder.current, "before")
    assert advance(scan) == ["before"]
    write(folder.current, "last")
    folder.current.rename(folder.path / "1441958500.db")
    assert advance(scan) == ["last"]
    write(folder.current, "new")
    assert advance(scan) == ["new"]
    assert advance(scan) == []


def test_a_new_file_that_got_the_number_of_a_removed_one_is_read_from_its_beginning(folder: LogFolder) -> None:
    """File systems give inodes out again, often at once."""
    scan = Scan(folder, LogQuery())
    scan.skip_to_end()
    inode = folder.current.stat().st_ino
    kept = folder.path / "kept"
    folder.current.rename(kept)
    assert advance(scan) == []
    with closing(sqlite3.connect(kept)) as connection:
        connection.execute("DELETE FROM logs")
        connection.commit()
    write(kept, "new")
    kept.rename(folder.current)
    assert folder.current.stat().st_ino == inode
    assert advance(scan) == ["new"]
