"""Unfinished output of a real job in a real agent."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from greenagent.logs import store
from greenagent.logs.write import open_lines
from tests.support.inside import InsideAgent
from tests.support.waiting import wait_until


def test_a_prompt_is_in_the_database_while_its_job_waits_for_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_lines, "AFTER", 0.1)
    monkeypatch.setattr(store, "_LOOK_EVERY", 0.02)
    with InsideAgent(tmp_path, {"main": "http://127.0.0.1:9"}) as inside:
        folder = inside.agent.store.folder

        def table(columns: str, name: str) -> list[tuple]:
            with closing(sqlite3.connect(folder.current)) as connection:
                return connection.execute(f"SELECT {columns} FROM {name} WHERE jobid = 'prompt'").fetchall()

        script = "printf 'Proceed? '; sleep 0.3; printf 'half' >&2; exec sleep 1000"
        args = {"name": "/bin/sh", "args": ["-c", script]}
        inside.start_job({"id": "prompt", "gid": 1, "nid": 10, "cmd": "execute", "args": args})
        expected = [(1, "Proceed? "), (2, "half")]
        wait_until(lambda: table("level, data", "open_lines") == expected, what="both rows")
        assert table("data", "logs") == []
        inside.agent.admission.kill("prompt")
        wait_until(lambda: "prompt" not in inside.agent.admission.live, what="the end")
        inside.agent.store.flush()
        assert table("data", "open_lines") == []
        assert ("Proceed? ",) in table("data", "logs")
