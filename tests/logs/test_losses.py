"""Lines lost on a full disk are told in their jobs' logs, also when the store stops before there is room."""

import re
from pathlib import Path

import pytest

from greenagent.logs.lines import Owner
from greenagent.logs.unsaid import OTHERS, ROOM, UnsaidFile
from tests.logs.conftest import Stores
from tests.logs.namespaces import run_with_mount

SCRIPT = '"$PYTHON" -m tests.logs.stopped_on_full_disk "$DISK" "$IDS"'


@pytest.mark.parametrize("ids", ["beside", "on the full disk"])
def test_what_was_lost_before_a_stop_is_told_after_the_next_start(tmp_path: Path, ids: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    file = disk / "mid" if ids == "on the full disk" else tmp_path / "mid"
    said = run_with_mount('mount -t tmpfs -o size=12m none "$DISK"', SCRIPT, DISK=disk, IDS=file)
    figures = dict(re.findall(r"^([a-z ]+) (-?\d+)$", said, re.MULTILINE))
    assert figures["chatty unaccounted"] == "0"
    # What sqlite could not commit for lack of room may stand after all; then it is told, and there.
    assert int(figures["quiet unaccounted"]) in (0, -1)
    assert int(figures["quiet notes"]) >= 1
    assert int(figures["counted"]) > 1000
    assert int(figures["notes in all"]) == int(figures["quiet notes"]) + int(figures["chatty notes"]), "never again"
    assert re.search("lines of . jobs were lost and their logs cannot be written: the next start tells them, by", said)
    assert re.search("lines of . jobs were lost before this start: their logs say so now", said)
    if ids == "beside":
        assert figures["counted again"] == "0"


def test_losses_of_many_jobs_keep_their_sum(tmp_path: Path) -> None:
    file = UnsaidFile(tmp_path / "mid.losses")
    assert file.open() == ({}, "")
    assert file.path.stat().st_blocks * 512 >= ROOM, "its room is taken before the disk is full"
    lost = {Owner(f"job{number}" + "\u00fc" * 190, "", ""): number + 1 for number in range(1000)}
    file.write(lost)
    found, problem = file.open()
    assert problem == ""
    assert sum(found.values()) == sum(lost.values())
    assert OTHERS in found
    assert max(lost, key=lambda owner: lost[owner]) in found
    assert file.path.stat().st_size == ROOM
    file.write({})
    assert file.open() == ({}, "")


@pytest.mark.parametrize("content", ["hello", '[["j"]]', "{}", "[" * 5000])
def test_a_damaged_file_of_losses_does_not_stop_the_agent(stores: Stores, content: str) -> None:
    stores.ids.with_name("mid.losses").write_text(content)
    stores.open()
    if content != "{}":
        assert [line for line in stores.agent_log.lines if "does not hold counts of lost lines" in line]
