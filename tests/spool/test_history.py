"""The history file (protocol 5.7; design, section 3)."""

import json
from pathlib import Path

from greenagent.spool.history import HistoryFile
from greenagent.values.command import parse_command
from tests.support.agent_logs import RecordedLog

REMEMBERED = {"id": "a", "gid": 1, "nid": 2, "role": "", "cmd": "execute", "args": {"max_time": -1}, "data": ""}


def test_what_is_added_is_loaded_and_what_is_removed_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "history"
    history = HistoryFile(path, RecordedLog())
    assert history.load() == []
    history.add(parse_command(REMEMBERED), "main", 12.5)
    history.add(parse_command({**REMEMBERED, "id": "b"}), None, 13.0)
    loaded = HistoryFile(path, RecordedLog()).load()
    assert [(entry.command.id, entry.controller, entry.accepted) for entry in loaded] == [
        ("a", "main", 12.5),
        ("b", None, 13.0),
    ]
    assert loaded[0].command.received == REMEMBERED
    history.remove("a")
    history.remove("never there")
    assert [entry.command.id for entry in HistoryFile(path, RecordedLog()).load()] == ["b"]


def test_a_history_of_the_original_loads_without_its_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text(json.dumps([REMEMBERED, {**REMEMBERED, "id": "b"}, {**REMEMBERED, "data": "again"}]))
    loaded = {entry.command.id: entry for entry in HistoryFile(path, RecordedLog()).load()}
    assert loaded["a"].command.data == "again"
    assert loaded["a"].controller is None
    assert len(loaded) == 2


def test_a_damaged_history_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text('[{"id": "a"')
    agent_log = RecordedLog()
    assert HistoryFile(path, agent_log).load() == []
    assert not path.exists()
    assert [part.read_text() for part in tmp_path.glob("history.damaged-*")] == ['[{"id": "a"']
    assert len(agent_log.lines) == 1


def test_a_bad_entry_is_left_out_and_the_others_load(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text(json.dumps([7, {"cmd": "execute"}, REMEMBERED]))
    agent_log = RecordedLog()
    assert [entry.command.id for entry in HistoryFile(path, agent_log).load()] == ["a"]
    assert len(agent_log.lines) == 2


def test_an_entry_with_half_a_character_loads_and_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text(json.dumps([{**REMEMBERED, "id": "half\ud800"}]))
    history = HistoryFile(path, RecordedLog())
    [entry] = history.load()
    assert entry.command.id == "half\ufffd"
    history.add(parse_command({**REMEMBERED, "id": "b"}), "main", 1.0)
    assert [entry.command.id for entry in HistoryFile(path, RecordedLog()).load()] == ["half\ufffd", "b"]
    history.remove("half\ufffd")
    assert [entry.command.id for entry in HistoryFile(path, RecordedLog()).load()] == ["b"]
