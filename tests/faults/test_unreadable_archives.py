"""An uploader whose log databases cannot be read: everything stays where it is, and goes on by itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from greenagent.logs.store import LogStore
from greenagent.logs.write.job_log import Routes
from greenagent.logs.write.retention import StoreLimits
from greenagent.uplink.sources import LogSource
from greenagent.uplink.uploader import Uploader
from greenagent.values.message import Message
from tests.support.agent_logs import RecordedLog
from tests.support.faults import Immutable
from tests.support.recording_controller import RecordingController
from tests.support.uplink import Aside, Uplink, quick_backoff, running
from tests.support.waiting import wait_until

PAIR = "ac/main"


class Uploads:
    """A real store whose lines go to a real controller, one archive for each batch given."""

    def __init__(self, path: Path, controller: RecordingController, limits: StoreLimits | None = None) -> None:
        self.agent_log = RecordedLog()
        self.store = LogStore(path / "logs", path / "mid", self.agent_log, limits=limits)
        self.store.start()
        bits = self.store.register_pairs([PAIR])
        self.job = self.store.open_job("j", "dom", "nam", Routes(pairs=[(bits[PAIR], None)]), "")
        self.uplink = Uplink(controller.url)
        source = LogSource("main", self.store.pending(PAIR), 1, 300, Aside(), self.uplink.metrics, batch_pause=0)
        self.uploader = Uploader(source, self.uplink.client, self.uplink.health, backoff=quick_backoff())

    def archive(self, *texts: str) -> Path:
        self.job.append([Message(1, text) for text in texts])
        path: Path = self.store.intake.call(self.store.writer.rotate)
        return path

    def complaints(self, words: str) -> list[str]:
        return [line for line in (*self.uplink.said, *self.agent_log.lines) if words in line]


@pytest.fixture
def controller() -> Iterator[RecordingController]:
    with RecordingController() as controller:
        yield controller


@pytest.fixture
def uploads(tmp_path: Path, controller: RecordingController) -> Iterator[Uploads]:
    uploads = Uploads(tmp_path, controller)
    yield uploads
    uploads.store.stop()


def arrived(controller: RecordingController) -> list[str]:
    return [record["data"] for record in controller.logs]


def test_an_archive_that_another_program_locks_holds_the_lines_until_it_is_free(
    uploads: Uploads, controller: RecordingController
) -> None:
    locked = uploads.archive("a", "b")
    uploads.archive("c")
    with closing(sqlite3.connect(locked, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with running(uploads.uploader):
            wait_until(lambda: uploads.uplink.metrics.log_errors >= 2, what="two tries")
            assert arrived(controller) == [], "order is kept: nothing overtakes"
            other.execute("ROLLBACK")
            wait_until(lambda: arrived(controller) == ["a", "b", "c"], what="all lines")
    assert len(uploads.complaints("database is locked")) == 1
    assert uploads.store.metrics.dropped == 0


def test_a_damaged_archive_that_cannot_be_set_aside_stops_nothing_once_it_can(
    uploads: Uploads, controller: RecordingController, immutable: Immutable
) -> None:
    damaged = uploads.archive("a")
    uploads.archive("b")
    damaged.write_bytes(b"rubbish " * 2000)
    immutable.set(damaged)
    with running(uploads.uploader):
        wait_until(lambda: uploads.uplink.metrics.log_errors >= 2, what="two tries")
        assert damaged.exists()
        immutable.lift()
        wait_until(lambda: arrived(controller) == ["b"], what="the line that can be read")
        wait_until(lambda: uploads.store.metrics.dropped == 1, what="the other to be counted")
    assert len(uploads.complaints("file is not a database")) == 2, "once as the reason, once as set aside"
    assert len(uploads.complaints("is kept as damaged-")) == 1


def test_lines_in_an_archive_that_a_cap_cannot_remove_are_not_said_to_be_lost(
    tmp_path: Path, controller: RecordingController, immutable: Immutable
) -> None:
    """They were, every second anew, and were sent all the same."""
    uploads = Uploads(tmp_path, controller, StoreLimits(max_dbs=1))
    kept = uploads.archive("a")
    immutable.set(kept)
    uploads.archive("b")
    wait_until(lambda: uploads.complaints("cannot be kept in order"), what="the trouble")
    with running(uploads.uploader):
        wait_until(lambda: arrived(controller) == ["a", "b"], what="all lines")
    assert uploads.complaints("is removed for max_dbs") == []
    assert uploads.store.metrics.dropped == 0
    immutable.lift()
    uploads.store.stop()


def test_lines_before_a_damage_are_sent_and_those_behind_it_counted(
    uploads: Uploads, controller: RecordingController
) -> None:
    texts = [f"{number:04} {'x' * 500}" for number in range(2000)]
    damaged = uploads.archive(*texts)
    uploads.archive("behind")
    content = bytearray(damaged.read_bytes())
    middle = len(content) // 2 // 8192 * 8192
    content[middle : middle + 8192] = b"\xff" * 8192
    damaged.write_bytes(content)
    with running(uploads.uploader):
        wait_until(lambda: arrived(controller)[-1:] == ["behind"], what="the last line")
        lost = wait_until(lambda: uploads.store.metrics.dropped, what="the lost ones to be counted")
    sent = arrived(controller)[:-1]
    assert sent == texts[: len(sent)]
    assert len(sent) > 500
    assert len(sent) + lost == 2000
    assert not damaged.exists()
