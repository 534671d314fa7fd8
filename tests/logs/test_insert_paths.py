"""The fast way into the database and the slow one give the same rows (design, section 7)."""

import sqlite3
from contextlib import closing
from pathlib import Path

from hypothesis import strategies as st

from greenagent.logs.folder import LogFolder
from greenagent.logs.lines import LAST_ID, Block, Lines, Owner, block_as_json
from greenagent.logs.splitter import Splitter
from greenagent.logs.write.database import LogDatabase
from tests.support.properties import given, settings
from tests.support.stores import Stores, job, messages, rows

CHARACTERS = st.one_of(
    st.characters(blacklist_characters="\n\0", blacklist_categories=["Cs"]),
    st.sampled_from('"\\\t\x1b\r\x01\x1f\x7f\u2028\u00e9\u20ac\U0001f600n'),
)
TEXTS = st.lists(st.text(CHARACTERS, max_size=20), min_size=1, max_size=20)


def insert_both_ways(folder: Path, texts: list[str], first_id: int) -> list[list[tuple]]:
    """The rows that each way makes of the same lines."""
    answers = []
    for can_json in (True, False):
        place = LogFolder(folder / f"{can_json}")
        place.create()
        database = LogDatabase(place, 1 << 30, print)
        database.open(1)
        database._can_json = can_json
        text = "".join(text + "\n" for text in texts)
        owner = Owner("j", "d", "n")
        database.begin()
        database.insert(Lines(owner, 1.5, True, 5, 0, first_id, 7, text, (), len(texts), len(text)))
        database.connection.execute("COMMIT")
        answers.append(database.connection.execute("SELECT * FROM logs ORDER BY seq").fetchall())
        database.close()
        database.path.unlink()
    return answers


@settings(max_examples=150)
@given(texts=TEXTS, first_id=st.sampled_from([0, 1, LAST_ID - 3, LAST_ID]))
def test_both_ways_give_the_same_rows(tmp_path_factory, texts: list[str], first_id: int) -> None:  # type: ignore[no-untyped-def]
    fast, slow = insert_both_ways(tmp_path_factory.mktemp("ways"), texts, first_id)
    assert fast == slow
    assert [row[6] for row in fast] == texts
    assert [row[0] for row in fast] == [(first_id + offset) & LAST_ID for offset in range(len(texts))]


@settings(max_examples=300)
@given(texts=TEXTS)
def test_the_json_of_a_block_holds_its_lines(texts: list[str]) -> None:
    block = block_as_json("".join(text + "\n" for text in texts))
    assert block is not None
    with closing(sqlite3.connect(":memory:")) as connection:
        values = [row[0] for row in connection.execute("SELECT value FROM json_each(?)", (block,))]
    assert values == texts


@settings(max_examples=100)
@given(lines=st.lists(st.tuples(st.sampled_from(["5::", "", "007::", "2::"]), st.text(CHARACTERS, max_size=12))))
def test_a_mixed_block_gives_the_rows_of_its_messages(stores_factory, lines: list[tuple[str, str]]) -> None:  # type: ignore[no-untyped-def]
    stores = stores_factory()
    data = "".join(prefix + text + "\n" for prefix, text in lines).encode()
    pieces = Splitter(1).feed(data)
    store = stores.open()
    job(store).append(pieces)
    job(store, max_bytes=1 << 30).append(pieces)
    store.flush()
    stored = rows(stores.folder, "level, data")
    assert stored[: len(stored) // 2] == stored[len(stored) // 2 :]
    assert stored[: len(stored) // 2] == messages(pieces)
    stores.close()


def test_a_mixed_block_with_a_nul_is_kept_whole(stores: Stores) -> None:
    store = stores.open()
    job(store).append(Splitter(1).feed(b"5::a\0b\n7::c\nd\n"))
    store.flush()
    assert rows(stores.folder, "level, data") == [(5, "a\0b"), (7, "c"), (1, "d")]


def test_a_block_with_a_nul_goes_the_slow_way_and_is_kept_whole(stores: Stores) -> None:
    assert block_as_json("a\0b\n") is None
    store = stores.open()
    job(store).append([Block(1, "a\0b\nc\n", 2)])
    store.flush()
    assert [row[2] for row in rows(stores.folder)] == ["a\0b", "c"]


def test_every_byte_value_survives_from_pipe_to_row(stores: Stores) -> None:
    store = stores.open()
    log = job(store)
    lines = [bytes([value]) * 3 for value in range(256) if value != 0x0A]
    log.append(Splitter(1).feed(b"".join(line + b"\n" for line in lines)))
    log.append(Splitter(1).feed(b"".join(b"<" + line + b">\n" for line in lines if line[0])))
    store.flush()
    expected = [line.decode("utf-8", "backslashreplace") for line in lines]
    expected[0x0C] = "\r\r"  # 0x0d: the CR before the line feed is its line end
    assert [row[2] for row in rows(stores.folder)] == expected + [
        f"<{line.decode('utf-8', 'backslashreplace')}>" for line in lines if line[0]
    ]
