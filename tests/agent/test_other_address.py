"""A state folder that comes under another gid or nid, is copied, or names a controller that is not configured."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import gevent
import pytest

from greenagent.runtime import procfs
from greenagent.spool import statements
from greenagent.spool.spool import Spool
from greenagent.values.errors import GreenagentError
from tests.support.agent_logs import RecordedLog
from tests.support.agents import AgentProcess, configuration
from tests.support.commands import shell
from tests.support.inside import InsideAgent
from tests.support.processes import state_of
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

AWAY = "http://127.0.0.1:9"


def as_node_11(folder: Path, url: str) -> InsideAgent:
    text = configuration(folder, {"main": url}).replace("nid = 10", "nid = 11")
    return InsideAgent(folder, {}, text.replace("interval = 60", "interval = 1"))


def work(agent: InsideAgent, job_id: str) -> None:
    """A job that prints a line for its controller and ends."""
    job = agent.accept(shell(job_id, f"echo {job_id} >&2"))
    assert job is not None
    wait_until(job.ended.is_set, what=f"the end of {job_id}")


def test_what_waits_goes_out_under_the_gid_and_nid_it_was_made_under(tmp_path: Path) -> None:
    with InsideAgent(tmp_path, {"main": AWAY}) as first:
        work(first, "old")
        first.start_job(shell("cut", "sleep 1000"))
        path = first.agent.spool.path
    with closing(sqlite3.connect(path)) as ledger, ledger:  # as kill -9 leaves it
        ledger.execute("DELETE FROM outcome WHERE id = 'cut'")
        ledger.execute("UPDATE job SET state = 'running', ended = NULL WHERE id = 'cut'")
    with RecordingController() as controller, as_node_11(tmp_path, controller.url) as second:
        work(second, "new")
        wait_until(lambda: len(controller.results) == 3 and len(controller.logs) == 2, what="results and lines")
        told = {result["id"]: (result["state"], result["nid"]) for result in controller.results}
        assert told == {"old": ("SUCCESS", 10), "cut": ("ERROR", 10), "new": ("SUCCESS", 11)}
        for post in controller.posts:
            if post.endpoint == "result":
                assert (post.gid, post.nid) == (1, post.value["nid"])
        lines = [
            (post.nid, [line["data"] for line in post.value]) for post in controller.posts if post.endpoint == "log"
        ]
        assert lines == [(10, ["old"]), (11, ["new"])]
        second.await_said("this agent was 1:10: log lines, and ")
    with as_node_11(tmp_path, AWAY) as third:
        assert "this agent was" not in third.stderr


def test_jobs_that_would_run_on_end_under_the_gid_and_nid_they_were_given_to(tmp_path: Path) -> None:
    """Under the new one their controller could neither be told of them nor end them.

    A recurring job is KILLED: any other result is that of one run, and ``ctl kill`` would wait for its agent in vain.
    """
    runs = tmp_path / "runs"
    with InsideAgent(tmp_path, {"main": AWAY}, max_jobs=1) as first:
        first.start_job(shell("kept", f"echo kept >> {runs}; sleep 1000", max_time=-1))
        assert first.accept(shell("waiting", f"echo waiting >> {runs}")) is not None
        assert first.accept(shell("recurring", f"echo recurring >> {runs}", recurring_period=1)) is not None
    assert all(name in (tmp_path / "history").read_text() for name in ("kept", "recurring"))
    spool = Spool(first.agent.spool.path, RecordedLog(), result_memory=10, address="1/11")
    spool.start()  # an agent that was killed at its start
    spool.stop()
    with RecordingController() as controller, as_node_11(tmp_path, controller.url) as second:
        wait_until(lambda: len(controller.results) == 3, what="all results")
        names = ("kept", "waiting", "recurring")
        for post, name in zip([post for post in controller.posts if post.endpoint == "result"], names, strict=True):
            assert (post.nid, post.value["id"], post.value["nid"]) == (10, name, 10)
            assert post.value["state"] == ("KILLED" if name == "recurring" else "ERROR")
            assert post.value["data"] == "given up: it was given to node 1:10, which is node 1:11 now"
            second.await_said(f"job {name}: given up: ")
        assert not second.agent.admission.live
    assert runs.read_text() == "kept\n"
    assert json.loads((tmp_path / "history").read_text()) == []
    with as_node_11(tmp_path, AWAY) as third:
        assert not third.agent.admission.live


def test_a_copy_under_another_nid_neither_sends_nor_ends_what_is_the_first_agents(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with InsideAgent(tmp_path / "one", {"main": AWAY}) as first, RecordingController() as controller:
        work(first, "old")
        running = first.start_job(shell("running", "sleep 1000"))
        first.agent.store.flush()
        first.agent.spool.database.run(lambda _: None)  # all of its files are at rest while they are copied
        shutil.copytree(tmp_path / "one", tmp_path / "two")
        with as_node_11(tmp_path / "two", controller.url) as second:
            work(second, "new")
            wait_until(lambda: controller.results and controller.logs, what="result and line")
            assert [(result["id"], result["nid"]) for result in controller.results] == [("new", 11)]
            assert [line["data"] for line in controller.logs] == ["new"]
            assert (
                "is a copy of that of agent 1:10, which goes on with its 1 unfinished jobs; 1 results" in second.stderr
            )
            letters = second.agent.spool.database.run(statements.dead_letters)
            assert [(letter.path, json.loads(letter.body)["id"]) for letter in letters] == [("/1/10/result", "old")]
            assert second.agent.spool.instance != first.agent.spool.instance
        assert not running.ended.is_set()


@pytest.mark.parametrize("copied", ["running", "stopped", "killed at its start"])
def test_a_copy_with_the_same_gid_and_nid_leaves_all_to_the_agent_that_lives(tmp_path: Path, copied: str) -> None:
    one, two, runs = tmp_path / "one", tmp_path / "two", tmp_path / "runs"
    one.mkdir()
    with RecordingController() as controller:
        original = AgentProcess(one, configuration(one, {"main": controller.url})).start()
        try:
            controller.push(shell("kept", f"echo kept >> {runs}; sleep 1000", max_time=-1))
            wait_until(runs.exists, what="the remembered job")
            if copied != "running":
                original.stop()
                shutil.copytree(one, two)
                runs.unlink()
                original.start()
                wait_until(runs.exists, what="the remembered job once more")
            else:
                controller.push(shell("running", f"touch {tmp_path}/up; sleep 1000"))
                wait_until((tmp_path / "up").exists, what="the other job")
                os.kill(original.pid, signal.SIGSTOP)  # or they are copied in the middle of a change
                wait_until(lambda: state_of(original.pid) == "T", what="the stop")
                shutil.copytree(one, two, ignore=shutil.ignore_patterns("logs"))
                os.kill(original.pid, signal.SIGCONT)
            if copied == "killed at its start":
                spool = Spool(two / "history.db", RecordedLog(), result_memory=10, address="1/10")
                spool.start()
                spool.stop()
            with InsideAgent(two, {"main": AWAY}) as copy:
                assert "is a copy of that of agent 1:10, which goes on with its " in copy.stderr
                assert "That is this agent's gid and nid too: give one of them another" in copy.stderr
                assert "no log database" not in copy.stderr, "that is the other agent's to tell"
                assert not copy.agent.admission.live
                assert not copy.agent.spool.waiting()
                assert json.loads((two / "history").read_text()) == []
            with InsideAgent(two, {"main": AWAY}) as again:
                assert "is a copy" not in again.stderr
                assert not again.agent.admission.live
            assert runs.read_text() == "kept\n"
            assert json.loads((one / "history").read_text()) != []
        finally:
            original.clean_up()


def test_a_ledger_keeps_its_name_until_it_is_copied(tmp_path: Path) -> None:
    def instance(path: Path) -> str:
        spool = Spool(path, RecordedLog(), result_memory=10)
        spool.start()
        spool.stop()
        return spool.instance

    name = instance(tmp_path / "a.db")
    assert instance(tmp_path / "a.db") == name
    (tmp_path / "a.db").rename(tmp_path / "b.db")
    assert instance(tmp_path / "b.db") == name
    shutil.copy(tmp_path / "b.db", tmp_path / "c.db")
    assert instance(tmp_path / "c.db") != name


def test_a_ledger_that_a_living_process_has_is_refused_also_without_its_lock(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.db", RecordedLog(), result_memory=10)
    spool.start()
    spool.stop()
    parent = procfs.read_process(os.getppid())
    assert parent is not None
    with closing(sqlite3.connect(spool.path)) as ledger, ledger:
        (owner,) = ledger.execute("SELECT value FROM meta WHERE key = 'owner'").fetchone()
        assert json.loads(owner)[:2] == [0, 0]  # after an orderly end the next agent may start at once
        owner = json.dumps([parent.pid, parent.start_ticks, *json.loads(owner)[2:]])
        ledger.execute("UPDATE meta SET value = ? WHERE key = 'owner'", (owner,))
    with pytest.raises(
        GreenagentError, match=f"a.db is in use by process {parent.pid}, although the lock file is gone"
    ):
        spool.start()
    shutil.copy(spool.path, tmp_path / "b.db")
    copy = Spool(tmp_path / "b.db", RecordedLog(), result_memory=10)
    copy.start()
    copy.stop()


def test_what_waits_for_a_controller_that_is_not_configured_is_said_and_makes_health_say_so(tmp_path: Path) -> None:
    with InsideAgent(tmp_path, {"old": AWAY}) as first:
        job = first.accept(shell("j", "true"), "old")
        assert job is not None
        wait_until(job.ended.is_set, what="the end of j")
    with InsideAgent(tmp_path, {"new": AWAY}) as second:
        spool = second.agent.spool
        upkeep = gevent.spawn(spool.keep_up, lambda: ["new"], 0.01)
        words = "1 results wait for controller 'old', which is not configured"
        wait_until(lambda: f"{words}: name it again within main.result_memory" in second.stderr, what="the warning")
        assert words in (second.agent.monitoring.status.health() or "")
        assert second.agent.monitoring.status.status()["ledger"]["owed_to_removed"] == words
        upkeep.kill()
        upkeep = gevent.spawn(spool.keep_up, lambda: ["new", "old"], 0.01)
        wait_until(lambda: not spool.owed_to_removed.problem, what="the end of it")
        assert second.agent.monitoring.status.health() is None
        upkeep.kill()
