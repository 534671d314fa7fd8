"""What lies in memory while the spool's file takes nothing: in order, bounded, and nothing twice."""

from __future__ import annotations

import json

from greenagent.spool.overlay import Overlay
from greenagent.spool.schema import FROM_CONTROLLER, NewJob
from greenagent.spool.spool import Spool
from tests.spool.support import accept, command, fill_disk, locked, result, rows, run_job, write_back
from tests.support.agent_logs import RecordedLog


def ids(spool: Spool, after: int = 0) -> list[str]:
    return [one.id for one in spool.pending("main", 100, after)]


def overlay_of(spool: Spool) -> Overlay:
    assert spool.database._overlay is not None
    return spool.database._overlay


def test_a_job_of_that_time_is_written_in_the_state_it_has_under_the_row_it_got(spool: Spool) -> None:
    before = accept(spool, command("before"))
    with locked(spool):
        waiting = accept(spool, command("waits"), waiting=True)
        running = accept(spool, command("runs"))
        ended = accept(spool, command("ended"))
        for number in (1, 2):
            spool.running(running, number, 1000 * number)
            spool.process(running, number, 10 * number)
        spool.end(ended)
        spool.end(before)
        assert [record.row for record in spool.unfinished()] == [waiting, running]
    assert rows(
        spool, "SELECT row, id, state, run, pid, start_ticks, starttime, ended IS NULL FROM job ORDER BY row"
    ) == [
        (before, "before", "ended", 0, None, None, 0, 0),
        (waiting, "waits", "waiting", 0, None, None, 0, 1),
        (running, "runs", "running", 2, 2, 20, 2000, 1),
        (ended, "ended", "ended", 0, None, None, 0, 0),
    ]
    assert before < waiting < running < ended
    assert json.loads(rows(spool, "SELECT command FROM job WHERE id = 'before'")[0][0])["id"] == "before"
    spool.report(running, "main", result("runs"), ends=True)
    assert rows(spool, "SELECT state FROM job WHERE id = 'runs'") == [("ended",)]


def test_a_result_delivered_meanwhile_is_written_as_delivered_and_answers_again(spool: Spool) -> None:
    with locked(spool):
        run_job(spool, "a", "1")
        [pending] = spool.pending("main", 10)
        assert spool.waiting()["main"].results == 1
        spool.delivered("main", [pending.row])
        assert (spool.pending("main", 10), spool.waiting()) == ([], {})
        for _ in range(3):
            assert spool.answer_again(command(), "main")
        assert spool.accept([NewJob(command(), "main", FROM_CONTROLLER, waiting=True)]) == [None]
        assert not spool.answer_again(command(), "other")
        assert not spool.answer_again(command(data="x"), "main")
        again = spool.pending("main", 10)
        assert [one.body for one in again] == [pending.body] * 2
    assert spool.pending("main", 10) == again
    spool.delivered("main", [one.row for one in again])
    assert spool.pending("main", 10) == []
    assert rows(spool, "SELECT id, state FROM job") == [("a", "ended")]
    assert spool.answer_again(command(), "main")


def test_what_the_file_has_is_read_and_settled_under_the_lock_without_its_bodies(spool: Spool) -> None:
    for name in ("old", "sent", "waits"):
        run_job(spool, name, name)
    old, sent, waits = spool.pending("main", 10)
    spool.delivered("main", [old.row])
    spool.database.run(lambda connection: None)
    with locked(spool):
        spool.delivered("main", [sent.row])
        assert ids(spool) == ["waits"]
        [(body,)] = overlay_of(spool).connection.execute("SELECT body FROM memory_outcome").fetchall()
        assert body is None
        for name in ("old", "sent"):
            assert spool.answer_again(command(name), "main")
        assert ids(spool) == ["waits", "old", "sent"]
        assert ids(spool, waits.row) == ["old", "sent"]
        bodies = [json.loads(one.body)["data"] for one in spool.pending("main", 10)]
    assert ids(spool) == ["waits", "old", "sent"]
    assert [json.loads(one.body)["data"] for one in spool.pending("main", 10)] == bodies == ["waits", "old", "sent"]


def test_what_a_controller_refuses_meanwhile_is_set_aside(spool: Spool) -> None:
    run_job(spool, "stored")
    with locked(spool):
        run_job(spool, "memory")
        spool.keep_dead_letter("main", "log", b"[1]", 400, "no")
        while found := spool.pending("main", 10):
            spool.make_dead_letter("main", found[0].row, 422, "never")
    assert spool.pending("main", 10) == []
    found = rows(spool, "SELECT path, status, body FROM aside ORDER BY row")
    assert [(path, status) for path, status, _ in found] == [("log", 400), ("result", 422), ("result", 422)]
    assert [json.loads(body)["id"] for _, _, body in found[1:]] == ["stored", "memory"]


def test_the_end_of_the_agent_says_what_is_lost(spool: Spool, agent_log: RecordedLog) -> None:
    fill_disk(spool, True)
    run_job(spool, "a", "x" * 100_000)
    spool.put_statistics(["main"], ["[1]", "[2]"], 0)
    spool.stop()
    assert any("3 results or statistics with it" in line for line in agent_log.lines)
    spool.start()
    assert rows(spool, "SELECT count(*) FROM job WHERE state = 'ended'") == [(0,)]


def test_an_end_that_writes_what_lay_in_memory_says_what_went_before(spool: Spool, agent_log: RecordedLog) -> None:
    spool.database.max_memory = 1_000_000
    fill_disk(spool, True)
    for number in range(10):
        run_job(spool, str(number), "x" * 200_000)
    fill_disk(spool, False)
    spool.stop()
    spool.start()
    lost = 10 - len(ids(spool))
    assert 0 < lost < 10
    assert sum(f"{lost} results or statistics lost" in line for line in agent_log.lines) == 1


def test_an_end_writes_what_lay_in_memory_if_it_can(spool: Spool, agent_log: RecordedLog) -> None:
    fill_disk(spool, True)
    run_job(spool, "a", "x" * 100_000)
    fill_disk(spool, False)
    spool.stop()
    spool.start()
    assert ids(spool) == ["a"]
    assert not any("lost" in line for line in agent_log.lines)


def test_a_full_disk_keeps_results_in_memory_until_there_is_room(spool: Spool, agent_log: RecordedLog) -> None:
    row = accept(spool, command())
    fill_disk(spool, True)
    spool.report(row, "main", result(data="x" * 100_000), ends=True)
    assert sum("cannot be written (database or disk is full)" in line for line in agent_log.lines) == 1
    [pending] = spool.pending("main", 10)
    assert rows(spool, "SELECT count(*) FROM outcome") == [(0,)]
    fill_disk(spool, False)
    write_back(spool)
    assert rows(spool, "SELECT row FROM outcome") == [(pending.row,)]
    assert spool.unfinished() == []
    assert sum("can be written again" in line for line in agent_log.lines) == 1


def test_a_file_that_cannot_even_be_read_stops_nothing(spool: Spool) -> None:
    """As with a damaged page: jobs are accepted and results delivered from memory."""
    spool.database.run(lambda connection: connection.execute("DROP TABLE outcome"))
    run_job(spool, "a")
    assert ids(spool) == ["a"]
    spool.delivered("main", [one.row for one in spool.pending("main", 10)])
    assert ids(spool) == []
    assert not spool.is_writable


def test_many_results_are_written_back(spool: Spool) -> None:
    with locked(spool):
        for number in range(500):
            run_job(spool, str(number))
        assert len(overlay_of(spool).connection.execute("SELECT row FROM memory_outcome").fetchall()) == 500
    assert rows(spool, "SELECT count(*), sum(state = 'ended') FROM job") == [(500, 500)]
    assert ids(spool) == [str(number) for number in range(100)]


def test_beyond_the_limit_the_delivered_go_first_and_their_jobs_have_ended_all_the_same(
    spool: Spool, agent_log: RecordedLog
) -> None:
    spool.database.max_memory = 2_000_000
    old = accept(spool, command("old"))
    with locked(spool):
        for number in range(10):
            run_job(spool, str(number), "x" * 100_000)
        spool.delivered("main", [one.row for one in spool.pending("main", 10)[5:]])
        spool.report(old, "main", result("old", "x" * 100_000), ends=True)
        for number in range(10, 18):
            run_job(spool, str(number), "x" * 100_000)
        assert spool.database.lost == 0
        assert "5" not in ids(spool)
        assert ids(spool)[:5] == [str(number) for number in range(5)]
        for number in range(20, 40):
            run_job(spool, str(number), "x" * 100_000)
        assert 10 < len(ids(spool)) < 20
        assert spool.database.lost == 5 + 1 + 8 + 20 - len(ids(spool))
    assert rows(spool, "SELECT state FROM job WHERE id = 'old'") == [("ended",)]
    assert sum("results or statistics lost" in line for line in agent_log.lines) == 1


def test_neither_changes_nor_results_of_a_repeating_job_pile_up(spool: Spool) -> None:
    row = accept(spool, command())
    with locked(spool):
        for number in range(200):
            spool.running(row, number, number)
            spool.report(row, "main", result(data=str(number)), ends=False)
            spool.delivered("main", [one.row for one in spool.pending("main", 10)])
        spool.database.run(lambda connection: None)
        for table, count in (("job", 1), ("outcome", 1)):
            found = overlay_of(spool).connection.execute(f"SELECT count(*) FROM memory_{table}").fetchone()
            assert found == (count,)
    assert rows(spool, "SELECT count(*) FROM outcome") == [(1,)]


def test_what_is_deleted_meanwhile_stays_deleted(spool: Spool) -> None:
    spool.put_statistics(["main"], ['[{"timestamp":1}]', '[{"timestamp":2}]'], 0)
    first, second = spool.pending("main", 10, 0, "stats")
    with locked(spool):
        spool.delivered("main", [first.row], "stats")
        assert spool.pending("main", 10, 0, "stats") == [second]
    assert spool.pending("main", 10, 0, "stats") == [second]
    assert rows(spool, "SELECT row FROM outcome") == [(second.row,)]


def test_a_page_that_is_damaged_while_the_agent_runs_stops_nothing(spool: Spool, agent_log: RecordedLog) -> None:
    """A read of it ended the service that read, five times, and then the agent."""
    for number in range(200):
        run_job(spool, str(number), "x" * 50_000)
    rows(spool, "PRAGMA wal_checkpoint(TRUNCATE)")
    size = spool.path.stat().st_size
    with spool.path.open("r+b") as file:
        file.seek(8192)
        file.write(bytes(size // 2))
    delivered = 0
    while found := spool.pending("main", 50):
        spool.delivered("main", [one.row for one in found])
        delivered += len(found)
    assert 0 <= delivered < 200
    run_job(spool, "new")
    assert ids(spool) == ["new"]
    assert not spool.is_writable
    assert sum("cannot be written (database disk image is malformed)" in line for line in agent_log.lines) == 1


def test_nothing_is_written_into_a_damaged_file_at_the_end_either(spool: Spool, agent_log: RecordedLog) -> None:
    """The next start sets it aside: a result written into it would be lost without a word."""
    run_job(spool, "before")
    rows(spool, "PRAGMA wal_checkpoint(TRUNCATE)")
    # Of what a result is written to nothing is damaged: only the statistics' index is.
    page = rows(spool, "SELECT rootpage FROM sqlite_master WHERE name = 'outcome_statistics'")[0][0]
    with spool.path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes([255]) * 4096)
    spool.put_statistics(["main"], ["[1]"], 0)
    run_job(spool, "after")
    spool.delivered("main", [one.row for one in spool.pending("main", 10, 0, "stats")], "stats")
    assert "after" in ids(spool)
    spool.stop()
    assert any("1 results or statistics with it" in line for line in agent_log.lines)
    assert rows(spool, "SELECT id FROM outcome WHERE path = 'result'") == [("before",)]


def test_what_is_dropped_of_a_removed_controller_is_counted_under_a_lock_too(
    spool: Spool, agent_log: RecordedLog
) -> None:
    """Views tell no number of changed rows: it went without a word."""
    run_job(spool, "a")
    run_job(spool, "b")
    spool.result_memory = -1.0  # all of it is old
    with locked(spool):  # taken since the upkeep found the file writable
        spool._maintain(["other"])
        assert not spool.is_writable, "they were dropped in memory"
        assert ids(spool) == []
    assert any("2 results or retried records dropped" in line for line in agent_log.lines)
