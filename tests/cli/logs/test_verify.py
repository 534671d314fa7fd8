"""``greenagent-logs verify``."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from greenagent.logs.folder import LogFolder
from greenagent.logs.lines import Block
from greenagent.logs.write.job_log import Routes
from tests.support.log_program import ORIGINAL, run
from tests.support.stores import Stores


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
