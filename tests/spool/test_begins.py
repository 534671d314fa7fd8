"""A job that begins at once has its first run written with its acceptance, and that can be taken back."""

from __future__ import annotations

from greenagent.spool.records import FROM_CONTROLLER, RUNNING, WAITING
from greenagent.spool.spool import Spool
from greenagent.values.command import parse_command
from tests.support.agent_logs import RecordedLog


def test_the_first_run_is_written_with_the_acceptance_and_taken_back_when_it_does_not_begin(tmp_path):
    spool = Spool(tmp_path / "ledger.db", RecordedLog(), result_memory=60)
    spool.start()
    try:
        command = parse_command({"id": "a", "gid": 1, "nid": 1, "cmd": "execute", "args": {"name": "true"}})
        row = spool.accept(command, "main", FROM_CONTROLLER, waiting=True, begins=True)
        [begun] = spool.unfinished()
        assert (begun.row, begun.state, begun.run, begun.starttime > 0) == (row, RUNNING, 1, True)
        spool.not_begun(row)
        [waiting] = spool.unfinished()
        assert (waiting.state, waiting.run, waiting.starttime) == (WAITING, 0, 0)
    finally:
        spool.stop()
