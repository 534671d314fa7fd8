"""Folders of log databases, with a ledger beside them."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from greenagent.logs.lines import Block
from greenagent.logs.write.job_log import Routes
from greenagent.spool.schema import SCHEMA
from greenagent.values.message import Message
from tests.logs.conftest import stores, typing  # noqa: F401
from tests.support.log_program import ORIGINAL
from tests.support.stores import Stores


@pytest.fixture
def folder(stores: Stores) -> Path:  # noqa: F811
    """Two jobs in two files, the agent stopped."""
    store = stores.open()
    first = store.open_job("first", "web", "crawl", Routes(), "")
    second = store.open_job("second", "", "", Routes(), "")
    first.append([Block(1, "one\ntwo\n", 2), Message(7, "careful"), Message(20, '\n{"a": 1}')])
    store.intake.call(store.writer.rotate)
    first.append([Message(9, "\x1b[31mbad\x1b[0m")])
    second.append([Message(2, "caf\u00e9"), Message(12, "odd")])
    store.stop()
    return stores.folder.path


@pytest.fixture
def agent_folder(tmp_path: Path) -> Path:
    """The logs of an original agent, and a ledger of ours beside them."""
    shutil.copytree(ORIGINAL, tmp_path / "logs")
    make_ledger(tmp_path / "history.db")
    return tmp_path


def make_ledger(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in SCHEMA:
            connection.execute(statement)
