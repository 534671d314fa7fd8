"""Large bodies are read by another process: what it raises comes through, and it may end at any time."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from typing import Any

import gevent
import pytest

from greenagent.controller.dispatch.results import ResultError, parse_result
from greenagent.controller.http.body_values import BodyTooLargeError, NotJsonError, unchanged
from greenagent.controller.http.body_worker import BodyWorker
from greenagent.controller.model import AgentKey
from greenagent.controller.state.log_lines import parse_records
from greenagent.runtime import procfs, reading_process
from tests.support.waiting import wait_until


@pytest.fixture
def worker():
    found = BodyWorker()
    yield found
    found.close()


def body(value: Any) -> bytearray:
    return bytearray(json.dumps(value).encode())


def child_of(worker: BodyWorker) -> int:
    assert worker.process._child is not None
    return worker.process._child.pid


@pytest.mark.parametrize("number", [0, 1, 499, 500, 501, 1000, 1234])
def test_a_list_comes_back_whole_and_in_order(worker: BodyWorker, number: int) -> None:
    records = worker.run(parse_records, body([{"jobid": "j", "id": n} for n in range(number)]), "a")
    assert records is not None
    assert [record.id for record in records] == list(range(number))


def test_one_process_reads_all_and_what_is_raised_is_raised_here(worker: BodyWorker) -> None:
    make = partial(parse_result, AgentKey(1, 2))
    assert worker.run(make, body({"id": "j", "state": "SUCCESS"}), "a").key == AgentKey(1, 2)
    child = child_of(worker)
    with pytest.raises(ResultError, match="a result needs the id of its job"):
        worker.run(make, body({}), "a")
    with pytest.raises(NotJsonError):
        worker.run(unchanged, bytearray(b"["), "a")
    with pytest.raises(NotJsonError, match="640 digits"):
        worker.run(unchanged, bytearray(b"1" * 641), "a")
    assert worker.run(unchanged, body({"a": "\N{GRINNING FACE}"}), "a") == {"a": "\N{GRINNING FACE}"}
    assert child_of(worker) == child


def test_one_that_was_ended_is_started_again(worker: BodyWorker) -> None:
    worker.run(unchanged, body(1), "a")
    os.kill(child_of(worker), signal.SIGKILL)
    with pytest.raises(BodyTooLargeError, match="was ended"):
        worker.run(unchanged, body(2), "a")
    assert worker.run(unchanged, body(3), "a") == 3


def test_a_body_that_takes_too_long_is_refused(worker: BodyWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.run(unchanged, body(1), "a")
    os.kill(child_of(worker), signal.SIGSTOP)
    with monkeypatch.context() as patched:
        patched.setattr(reading_process, "SECONDS", 0.2)
        with pytest.raises(BodyTooLargeError, match="takes too long"):
            worker.run(unchanged, body(2), "a")
    assert worker.run(unchanged, body(3), "a") == 3


def test_a_body_that_takes_too_much_memory_is_refused_and_leaves_none(
    worker: BodyWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_process, "SECONDS", 120)  # a busy machine takes a while to fill it
    with pytest.raises(BodyTooLargeError, match="too much memory"):
        worker.run(unchanged, bytearray(b"[" + b"[]," * 10_000_000 + b"1]"), "a")
    assert worker.run(unchanged, body(3), "a") == 3
    assert procfs.read_exact_rss(child_of(worker)) < 100 * 1024 * 1024


def test_addresses_take_turns_and_one_that_gives_up_holds_no_turn(worker: BodyWorker) -> None:
    worker.run(unchanged, body(0), "loud")
    os.kill(child_of(worker), signal.SIGSTOP)
    order: list[str] = []

    def ask(address: str) -> None:
        worker.run(unchanged, body(0), address)
        order.append(address)

    asking = [gevent.spawn(ask, address) for address in ("loud", "loud", "loud", "loud", "quiet", "gone")]
    gevent.sleep(0)
    asking.pop().kill()
    os.kill(child_of(worker), signal.SIGCONT)
    gevent.joinall(asking, timeout=60, raise_error=True)
    assert order == ["loud", "loud", "quiet", "loud", "loud"]


def test_it_ends_with_its_controller(worker: BodyWorker) -> None:
    worker.run(unchanged, body(1), "a")
    child = child_of(worker)
    assert worker.process._socket is not None
    worker.process._socket.close()  # as when the controller was killed
    wait_until(lambda: (found := procfs.read_process(child)) is None or found.state == "Z", what="the child to end")


def test_no_module_of_the_working_folder_is_taken(
    worker: BodyWorker, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickle.py").write_text("raise SystemExit('a file of the working folder ran')")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('a file of the working folder ran')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert worker.run(unchanged, body(1), "a") == 1


def test_a_newly_installed_version_reads_nothing_for_one_that_runs(
    worker: BodyWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.run(unchanged, body(1), "a")
    monkeypatch.setattr(reading_process, "_CODE", 0)
    child = child_of(worker)
    assert worker.run(unchanged, body(2), "a") == 2
    assert child_of(worker) == child  # it is older than that version
    os.kill(child, signal.SIGKILL)
    with pytest.raises(BodyTooLargeError, match="was ended"):
        worker.run(unchanged, body(3), "a")
    assert worker.run(unchanged, body(4), "a") == 4
    assert worker.process._child is None
