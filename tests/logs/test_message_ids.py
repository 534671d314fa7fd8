"""Message ids: reserved in blocks, never given twice, whatever happens to their file (protocol 6.4)."""

from pathlib import Path

import gevent
import pytest

from greenagent.logs.lines import Block
from greenagent.logs.write.intake import BLOCK, MessageIds
from greenagent.values.errors import GreenagentError
from greenagent.values.message import Message
from tests.support.stores import Stores, job, rows

LAST = 0xFFFFFFFF


class Ids:
    """Message ids without a thread: reservations happen when the test says so."""

    def __init__(self, path: Path) -> None:
        self.asked: list = []
        self.warnings: list[str] = []
        self.ids = MessageIds(path, self.asked.append, lambda call: call(), self.warnings.append)

    def reserve(self) -> None:
        while self.asked:
            self.asked.pop(0)()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mid"


def test_the_first_id_of_all_is_1_and_its_block_is_on_disk_first(path: Path) -> None:
    made = Ids(path)
    made.ids.start(-1)
    assert path.read_text() == str(BLOCK)
    assert made.ids.take(3) == 1
    assert made.ids.take(1) == 4


def test_the_next_block_is_reserved_ahead(path: Path) -> None:
    made = Ids(path)
    made.ids.start(-1)
    made.ids.take(BLOCK // 2 + 1)
    assert len(made.asked) == 1
    made.reserve()
    assert int(path.read_text()) > BLOCK
    assert made.ids.left > BLOCK


def test_nothing_is_given_that_is_not_reserved(path: Path) -> None:
    made = Ids(path)
    made.ids.start(-1)
    with pytest.raises(ValueError, match="reserved"):
        made.ids.take(BLOCK + 1)


@pytest.mark.parametrize("text", ["5", "", None])
def test_ids_go_on_where_file_and_databases_went_back(path: Path, text: str | None) -> None:
    """As from a backup: of one job the controller would take lines with the same ids for repeats, and drop them."""
    recorded: list[int] = []
    made = Ids(path)
    made.ids.start(-1, 0, recorded.append)
    made.ids.take(1000)
    made.ids.store_last_used()
    assert recorded == [BLOCK, 1000]
    path.unlink() if text is None else path.write_text(text)
    again = Ids(path)
    again.ids.start(5, recorded[-1], recorded.append)
    assert again.ids.take(1) > 1000
    last = Ids(path)
    last.ids.start(-1, recorded[-1], recorded.append)
    assert not last.warnings, "the file is what was recorded"


def test_a_clean_stop_wastes_nothing(path: Path) -> None:
    first = Ids(path)
    first.ids.start(-1)
    first.ids.take(42)
    first.ids.store_last_used()
    assert path.read_text() == "42"
    second = Ids(path)
    second.ids.start(42)
    assert second.ids.take(1) == 43
    assert second.warnings == []


def test_after_a_crash_ids_go_on_behind_the_reserved_block(path: Path) -> None:
    first = Ids(path)
    first.ids.start(-1)
    first.ids.take(10)
    second = Ids(path)
    second.ids.start(10)
    assert second.ids.take(1) == BLOCK + 1


@pytest.mark.parametrize("content", [None, b"", b"abc", b"99999999999", b"-5", b"12\xff"])
def test_a_missing_or_damaged_file_goes_on_a_block_behind_the_newest_line(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    made = Ids(path)
    made.ids.start(5000)
    assert made.ids.take(1) == 5000 + BLOCK + 1
    assert [str(path) in line for line in made.warnings] == ([True] if content is not None else [])


def test_a_file_from_an_older_backup_does_not_repeat_ids(path: Path) -> None:
    path.write_text("100")
    made = Ids(path)
    made.ids.start(700_000)
    assert made.ids.take(1) == 700_000 + BLOCK + 1


def test_the_originals_file_with_or_without_a_newline_is_read(path: Path) -> None:
    path.write_text("77\n")
    made = Ids(path)
    made.ids.start(-1)
    assert made.ids.take(1) == 78


def test_ids_wrap_after_32_bits(path: Path) -> None:
    path.write_text(str(LAST - 2))
    made = Ids(path)
    made.ids.start(LAST - 2)
    assert path.read_text() == str(BLOCK - 3)
    assert [made.ids.take(1) for _ in range(4)] == [LAST - 1, LAST, 0, 1]
    made.ids.store_last_used()
    again = Ids(path)
    again.ids.start(1)
    assert again.ids.take(1) == 2
    assert again.warnings == []


def test_a_file_that_cannot_be_written_does_not_stop_the_jobs(path: Path) -> None:
    made = Ids(path)
    made.ids.start(-1)
    path.unlink()
    path.mkdir()
    made.ids.take(BLOCK // 2 + 1)
    made.reserve()
    assert made.ids.left > BLOCK
    assert "cannot be written" in made.warnings[0]


def test_a_block_across_the_wrap_is_stored_in_one_piece(stores: Stores) -> None:
    stores.ids.write_text(str(LAST - 3))
    store = stores.open()
    log = job(store)
    log.append([Block(1, "a\nb\nc\nd\ne\n", 5), Message(9, "f")])
    store.stop()
    assert [row[0] for row in rows(stores.folder)] == [LAST - 2, LAST - 1, LAST, 0, 1, 2]
    assert stores.ids.read_text() == "2"
    store = stores.open()
    job(store).append([Message(1, "g")])
    store.flush()
    assert rows(stores.folder)[-1][0] == 3


def test_a_lost_id_file_goes_on_behind_the_database(stores: Stores) -> None:
    store = stores.open()
    job(store).append([Block(1, "a\nb\n", 2)])
    store.stop()
    stores.ids.unlink()
    store = stores.open()
    job(store).append([Message(1, "c")])
    store.flush()
    assert rows(stores.folder)[-1][0] == 2 + BLOCK + 1


def test_more_ids_than_a_block_at_once(stores: Stores) -> None:
    """A chunk of nothing but newlines holds more lines than are reserved."""
    store = stores.open()
    job(store).append([Block(1, "\n" * 250_000, 250_000)])
    store.flush()
    assert rows(stores.folder, "count(*), min(id), max(id)") == [(250_000, 1, 250_000)]


def test_who_waits_for_ids_is_woken_when_nobody_reserves_them_any_more(path: Path) -> None:
    made = Ids(path)
    made.ids.start(-1)
    waiter = gevent.spawn(made.ids.wait_for, BLOCK + 1)
    gevent.sleep(0)
    made.ids.end()
    with pytest.raises(GreenagentError, match="log writer has stopped"):
        waiter.get(timeout=60)
