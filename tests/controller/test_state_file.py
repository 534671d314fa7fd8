"""The state file: no job and no result is forgotten."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import gevent
import pytest
import requests

from greenagent.controller.limits import Limits
from greenagent.controller.state.scripts import OVERHEAD
from greenagent.runtime import state_files
from tests.support.controllers import ControllerProcess
from tests.support.local_controller import Agent, LocalController, plain, start
from tests.support.programs import refused
from tests.support.waiting import wait_until


def test_jobs_results_queues_and_scripts_come_back(tmp_path) -> None:
    state = tmp_path / "state.db"
    first = LocalController(state=state)
    agent = Agent(first, roles=["web"])
    poll = agent.poll()
    first.submit(id="done", gid=1, nid=10)
    poll.command()
    agent.finish("done", data="42", starttime=7)
    poll = agent.poll()
    first.submit(id="running", gid=1, nid=10)
    poll.command()
    first.submit(id="queued-1", gid=1, nid=10)
    first.submit(id="role", roles=["web"])
    first.submit(id="queued-2", gid=1, nid=10)
    digest = first.post("scripts", {"content": "x = 1"}).json()["hash"]
    before = [first.get(f"jobs/{job['id']}") for job in first.get("jobs")["jobs"]]
    first.stop()

    second = LocalController(state=state)
    try:
        after = [second.get(f"jobs/{job['id']}") for job in second.get("jobs")["jobs"]]
        assert after == before
        assert second.post("jobs", {"id": "done", "cmd": "execute", "gid": 1, "nid": 10}).status_code == 409
        agent = Agent(second, roles=["web"])
        agent.finish("done", data="repeat", starttime=7)
        assert second.results("done")[0]["data"] == "42"
        assert [agent.take()["id"] for _ in range(3)] == ["queued-1", "queued-2", "role"]
        agent.finish("running")
        assert second.state("running") == "SUCCESS"
        script = plain().get(f"{second.url}/1/10/script", params={"hash": digest}, timeout=60)
        assert script.text == "x = 1"
    finally:
        second.stop()


class Load:
    """People who post jobs and an agent that takes and answers them, through kills of the controller."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.posted: set[str] = set()
        self.taken: list[str] = []
        self.answered: set[str] = set()
        self.owed: list[str] = []
        self.posting = True
        self.greenlets = [gevent.spawn(self._post), gevent.spawn(self._poll), gevent.spawn(self._answer)]

    def _post(self) -> None:
        session = plain()
        for number in itertools.count():
            if not self.posting:
                return
            job = {"id": f"job-{number}", "cmd": "execute", "gid": 1, "nid": 10, "wait_for_agent": 600}
            while True:
                try:
                    answer = session.post(f"{self.url}/api/jobs", json=job, timeout=60)
                except requests.RequestException:
                    gevent.sleep(0.02)
                    continue
                assert answer.status_code in (202, 409), answer.text
                self.posted.add(job["id"])
                break

    def _poll(self) -> None:
        """As our agent does: named in the next poll, and a command that is known is not run again."""
        session = plain()
        token = ""
        known: set[str] = set()
        while True:
            try:
                answer = session.get(f"{self.url}/1/10/cmd", headers={"Greenagent-Acknowledge": token}, timeout=(5, 75))
            except requests.RequestException:
                gevent.sleep(0.02)
                continue
            if answer.status_code == 200 and answer.text:
                job_id = answer.json()["id"]
                if job_id not in known:
                    known.add(job_id)
                    self.taken.append(job_id)
                    self.owed.append(job_id)
                token = answer.headers["Greenagent-Delivery"]

    def _answer(self) -> None:
        session = plain()
        while True:
            if not self.owed:
                gevent.sleep(0.002)
                continue
            job_id = self.owed[0]
            result = {"id": job_id, "state": "SUCCESS", "starttime": 1, "data": job_id}
            try:
                answer = session.post(f"{self.url}/1/10/result", json=result, timeout=60)
            except requests.RequestException:
                gevent.sleep(0.02)
                continue
            if answer.status_code == 200:
                self.answered.add(self.owed.pop(0))

    def stop(self) -> None:
        gevent.killall(self.greenlets)


def test_kill_9_and_restart_under_load_forgets_nothing(tmp_path) -> None:
    options = ("--state", str(tmp_path / "state.db"))
    process = ControllerProcess(tmp_path, *options)
    load = Load(process.url)
    try:
        for round_number in range(1, 4):
            target = len(load.answered) + 40 * round_number
            wait_until(lambda target=target: len(load.answered) >= target, timeout=30, what="jobs to be done")
            process.kill()
            process.start()
        load.posting = False
        load.greenlets[0].join(timeout=60)
        wait_until(lambda: load.answered >= load.posted, timeout=30, what="all jobs to be answered")
        jobs = plain().get(f"{process.url}/api/jobs", timeout=60).json()["jobs"]
        states = {job["id"]: job["state"] for job in jobs}
        assert len(load.posted) > 100
        for job_id in load.posted:
            job = plain().get(f"{process.url}/api/jobs/{job_id}", timeout=60).json()
            assert [result["data"] for result in job["results"]] == [job_id]
            assert job["agents"][0]["results"] == 1
        assert set(states.values()) == {"SUCCESS"}
        assert sorted(load.taken) == sorted(load.posted)
    finally:
        load.stop()
        assert process.stop() == 0
    with sqlite3.connect(tmp_path / "state.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert process.said == []


def damage(path: Path, *statements: str) -> None:
    """A state file with a job and a result, and then something wrong in it."""
    first = LocalController(state=path)
    first.submit(id="x", gid=1, nid=10)
    first.stop()
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no database", "file is not a database: move it away"),
        ("torn", "malformed"),
        ("no folder", "No such file or directory"),
        ("a folder", "this is a folder or a device"),
        ("UPDATE jobs SET command = '{'", "is damaged (JSONDecodeError"),
        ("UPDATE jobs SET command = '[]'", "is damaged (AttributeError"),
        ("UPDATE jobs SET command = '5'", "is damaged"),
        ("UPDATE jobs SET command = '{\"gid\": [1]}'", "is damaged"),
        ("UPDATE jobs SET command = '{\"gid\": 1e999}'", "is damaged"),
        ("UPDATE results SET body = '[]'", "is damaged"),
        ("ALTER TABLE results RENAME COLUMN body TO text", "cannot read the state file"),
    ],
    ids=lambda value: value[:40],
)
def test_a_state_file_that_cannot_be_used_is_one_line(tmp_path, kind, words) -> None:
    path = tmp_path / "state.db"
    if kind == "no database":
        path.write_bytes(b"nonsense" * 1000)
    elif kind == "torn":
        damage(path)
        content = path.read_bytes()
        path.write_bytes(content[:4096] + b"x" * (len(content) - 4096))
    elif kind == "no folder":
        path = tmp_path / "missing" / "state.db"
    elif kind == "a folder":
        path.mkdir()
    else:
        damage(path, kind)
    said = refused("--state", str(path))
    assert said.startswith("greenagent-controller: ")
    assert str(path) in said
    assert words in said


@pytest.mark.parametrize("path", ["", ".", "/", "/dev/null", "x" * 300, b"\xff/\xff"], ids=repr)
def test_a_state_file_of_an_impossible_name_is_one_line(tmp_path, path) -> None:
    name = os.fsdecode(path)
    assert refused("--state", name, folder=tmp_path).startswith("greenagent-controller: cannot use the state file ")


def test_two_controllers_on_one_state_file_are_refused(tmp_path) -> None:
    process = ControllerProcess(tmp_path, "--state", str(tmp_path / "state.db"))
    try:
        (tmp_path / "folder").symlink_to(tmp_path)
        for name in ("state.db", "folder/state.db"):
            said = refused("--state", str(tmp_path / name))
            assert f"{name} is in use by process {process.process.pid} " in said
            assert "agent" not in said.removeprefix("greenagent-controller")
    finally:
        process.stop()


def test_a_finished_job_whose_removal_cannot_be_written_stays_until_it_can(make_controller, tmp_path) -> None:
    """Forgotten here but not there, its rows would be in the way of the next job of its id."""
    state = tmp_path / "state.db"
    controller = make_controller(state=state)
    controller.submit(id="nightly", gid=1, nid=10)
    with closing(sqlite3.connect(state, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        controller.change_limits(keep_for=0, keep_least=0)
        wait_until(lambda: any("cannot write the state file" in line for line in controller.said), what="a failed trim")
        assert controller.post("jobs", {"id": "nightly", "cmd": "execute", "gid": 1, "nid": 10}).status_code == 409
        other.execute("ROLLBACK")
    wait_until(lambda: controller.get("jobs")["jobs"] == [], what="the job to be dropped")
    controller.submit(id="nightly", gid=1, nid=10, wait_for_agent=60)
    controller.stop()
    assert [job["state"] for job in make_controller(state=state).get("jobs")["jobs"]] == ["QUEUED"]


def test_rows_that_no_job_owns_are_removed_at_the_start(make_controller, tmp_path) -> None:
    state = tmp_path / "state.db"
    make_controller(state=state).stop()
    with closing(sqlite3.connect(state)) as database, database:
        database.execute("INSERT INTO jobs VALUES (1, 'j', '{\"gid\": 1, \"nid\": 10}', 5, 0, 0, 0)")
        for job, number, found in ((1, 0, "QUEUED"), (1, 2, "SUCCESS"), (2, 0, "QUEUED")):
            database.execute(
                "INSERT INTO assignments VALUES (?, ?, 1, ?, 0, ?, '', 0, 0, 0)", (job, number, 10 + number, found)
            )
        result = json.dumps({"state": "SUCCESS", "starttime": 1})
        for job, number in ((1, 2), (1, 7), (2, 0), (3, 0)):
            database.execute("INSERT INTO results VALUES (?, ?, 1, ?)", (job, number, result))
    controller = make_controller(state=state)
    assert [result["state"] for result in controller.results("j", wait=0)] == ["QUEUED", "SUCCESS"]
    controller.submit(id="next", gid=1, nid=10, wait_for_agent=60)
    assert controller.results("next", wait=0) == [{"id": "next", "gid": 1, "nid": 10, "state": "QUEUED"}]
    controller.stop()
    with closing(sqlite3.connect(state)) as database:
        assert database.execute("SELECT job, number FROM assignments").fetchall() == [(1, 0), (1, 2), (2, 0)]
        assert database.execute("SELECT job, number FROM results").fetchall() == [(1, 2)]


def test_jobs_that_ended_while_the_clock_was_ahead_are_not_kept_for_ever(make_controller, tmp_path) -> None:
    state = tmp_path / "state.db"
    first = make_controller(state=state)
    for number in range(5):
        first.submit(id=f"job {number}", gid=1, nid=10)
    first.stop()
    with closing(sqlite3.connect(state)) as database, database:
        database.execute("UPDATE jobs SET finished = finished + 1e7")
    controller = make_controller(Limits(keep_jobs=2, keep_least=0.2), state=state)
    wait_until(lambda: len(controller.get("jobs")["jobs"]) == 2, what="the oldest to be dropped")


def test_identities_that_earlier_versions_took_come_back(make_controller, tmp_path) -> None:
    state = tmp_path / "state.db"
    damage(
        state,
        f"UPDATE jobs SET command = '{json.dumps({'id': 'x', 'cmd': 'execute', 'gid': 1, 'nid': 10**18})}'",
        f"UPDATE assignments SET nid = {10**18}",
    )
    [job] = make_controller(state=state).get("jobs")["jobs"]
    assert (job["id"], job["nid"], job["state"]) == ("x", 10**18, "ERROR")


def test_scripts_stay_until_their_removal_is_written(make_controller, tmp_path) -> None:
    """Dropped in memory alone they would be missing, and come back at the next start."""
    state = tmp_path / "state.db"
    controller = make_controller(state=state)
    digest = controller.post("scripts", {"content": "x = 1"}).json()["hash"]

    def served() -> int:
        return plain().get(f"{controller.url}/1/10/script", params={"hash": digest}, timeout=60).status_code

    with closing(sqlite3.connect(state, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        controller.change_limits(script_age=0)
        wait_until(lambda: any("cannot write the state file" in line for line in controller.said), what="a failed trim")
        assert served() == 200
        other.execute("ROLLBACK")
    wait_until(lambda: served() == 404, what="the script to be dropped")


def test_a_script_and_the_removal_of_those_it_displaces_are_written_together(make_controller, tmp_path) -> None:
    state = tmp_path / "state.db"
    room_for_one = OVERHEAD + sys.getsizeof("x = 'old'")
    controller = make_controller(Limits(script_bytes=room_for_one), state=state)
    old, new = (controller.post("scripts", {"content": text}).json()["hash"] for text in ("x = 'old'", "y = 'new'"))
    again = controller.post("scripts", {"content": "y = 'new'"}).json()["hash"]
    assert again == new != old
    controller.stop()
    controller = make_controller(state=state)
    codes = [
        plain().get(f"{controller.url}/1/10/script", params={"hash": digest}, timeout=60).status_code
        for digest in (old, new)
    ]
    assert codes == [404, 200]


def test_a_command_whose_agent_came_in_time_waits_on_after_a_restart(make_controller, tmp_path) -> None:
    state = tmp_path / "state.db"
    controller = make_controller(state=state)
    agent = Agent(controller)
    controller.submit(id="first", gid=1, nid=10, wait_for_agent=60)
    agent.take()
    controller.submit(id="second", gid=1, nid=10, wait_for_agent=0.001)
    controller.services.backend.tidy()
    controller.stop()
    controller = make_controller(Limits(live=0), state=state)
    controller.services.backend.tidy()
    assert controller.state("second") == "QUEUED"


def test_a_state_file_that_is_removed_is_said_and_made_again(make_controller, tmp_path) -> None:
    state = tmp_path / "state.db"
    controller = make_controller(state=state)
    agent = Agent(controller)
    start(controller, agent)
    agent.finish("j", data="kept")
    controller.submit(id="waits", gid=1, nid=10, wait_for_agent=60)
    controller.post("scripts", {"content": "text"})
    state.unlink()
    wait_until(lambda: any("was removed while in use" in line for line in controller.said), what="that to be said")
    controller.submit(id="later", gid=1, nid=10, wait_for_agent=60)
    controller.stop()
    again = make_controller(state=state)
    assert {job["id"]: job["state"] for job in again.get("jobs")["jobs"]} == {
        "j": "SUCCESS",
        "waits": "QUEUED",
        "later": "QUEUED",
    }
    assert again.results("j")[0]["data"] == "kept"
    assert again.services.scripts.rows()


GONE = "was removed and cannot be made again"


@pytest.fixture
def unwatched_lock(monkeypatch) -> None:
    """Whoever looks after the lock makes the folder again, too, and might come first."""
    monkeypatch.setattr(state_files, "CHECK_INTERVAL", 3600.0)


@pytest.mark.usefixtures("unwatched_lock")
def test_while_the_state_files_folder_is_gone_nothing_is_acknowledged(make_controller, tmp_path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    controller = make_controller(state=folder / "state.db")
    folder.rename(tmp_path / "elsewhere")
    wait_until(lambda: any(GONE in line for line in controller.said), what="that to be said")
    assert controller.post("jobs", {"cmd": "x", "gid": 1, "nid": 10, "wait_for_agent": 60}).status_code == 503
    folder.mkdir()
    wait_until(lambda: any("made again, with all" in line for line in controller.said), what="it to be made again")
    controller.submit(id="j", gid=1, nid=10, wait_for_agent=60)


@pytest.mark.usefixtures("unwatched_lock")
def test_while_something_else_lies_in_the_place_of_the_lock_nothing_is_acknowledged(make_controller, tmp_path) -> None:
    """The error of the lock was not expected: jobs were acknowledged from then on, and written nowhere."""
    state, lock = tmp_path / "state.db", tmp_path / "state.db.lock"
    controller = make_controller(state=state)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe").replace(lock)
    state.unlink()
    wait_until(lambda: any(GONE in line for line in controller.said), what="that to be said")
    assert controller.post("jobs", {"cmd": "x", "gid": 1, "nid": 10, "wait_for_agent": 60}).status_code == 503
    lock.unlink()
    wait_until(lambda: any("made again, with all" in line for line in controller.said), what="it to be made again")
    controller.submit(id="j", gid=1, nid=10, wait_for_agent=60)
    controller.stop()
    assert [job["id"] for job in make_controller(state=state).get("jobs")["jobs"]] == ["j"]


def test_an_empty_state_file_is_said(make_controller, tmp_path) -> None:
    (tmp_path / "state.db").touch()
    [said] = make_controller(state=tmp_path / "state.db").said
    assert "was empty" in said
    assert make_controller(state=tmp_path / "new.db").said == []


@pytest.mark.parametrize("target", ["elsewhere", "other.db"])
def test_a_state_file_that_is_a_link_is_refused_and_what_it_points_at_is_left_alone(tmp_path, target) -> None:
    """Behind a dangling one a file was made, and another database got our tables."""
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE theirs (x)")
    (tmp_path / "state.db").symlink_to(tmp_path / target)
    assert "state.db is a symbolic link: put a file of" in refused("--state", str(tmp_path / "state.db"))
    assert {path.name for path in tmp_path.iterdir()} == {"other.db", "state.db"}
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


def test_a_lock_that_is_removed_is_made_again_so_that_a_second_controller_is_refused(tmp_path) -> None:
    state = tmp_path / "state.db"
    lock = tmp_path / "state.db.lock"
    process = ControllerProcess(tmp_path, "--state", str(state))
    try:
        lock.unlink()
        wait_until(lambda: lock.exists() and lock.read_text().strip(), what="the lock to be made again")
        assert f"is in use by process {process.process.pid} " in refused("--state", str(state))
    finally:
        process.stop()
