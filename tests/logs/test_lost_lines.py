"""Lines lost on a full disk are counted, and said: in their jobs' logs, or where that cannot be by the agent."""

import re
from pathlib import Path

from tests.support.namespaces import run_with_mount

NOTES = '"$PYTHON" -m tests.logs.programs.lost_notes "$DISK" "$IDS"'
SCRIPT = '"$PYTHON" -m tests.logs.programs.stopped_on_full_disk "$DISK" "$IDS"'


def test_what_was_lost_before_a_stop_without_room_is_said_by_the_agent(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    said = run_with_mount('mount -t tmpfs -o size=12m none "$DISK"', SCRIPT, DISK=disk, IDS=tmp_path / "mid")
    numbers = {name: int(number) for name, number in re.findall(r"^([a-z ]+) (-?\d+)$", said, re.MULTILINE)}
    assert numbers["counted"] > 1000
    # What sqlite could not commit for lack of room may stand after all.
    assert numbers["missing"] in (numbers["counted"], numbers["counted"] - 1)
    told = re.search(r"error: (\d+) lines of (\d) jobs were lost, and their logs cannot tell", said)
    assert told is not None, said
    assert numbers["noted"] + int(told[1]) == numbers["counted"], "each is told once, here or there"
    assert numbers["new lines"] == 1, "and the next start goes on"


def test_a_note_that_is_lost_itself_counts_for_no_line_of_the_job(tmp_path: Path) -> None:
    """A job of which only the note was lost was told one line more than it had lost."""
    disk = tmp_path / "disk"
    disk.mkdir()
    said = run_with_mount('mount -t tmpfs -o size=2m none "$DISK"', NOTES, DISK=disk, IDS=tmp_path / "mid")
    missing = {name: set(numbers.split()) for name, numbers in re.findall(r"^(chatty|quiet) (.+)$", said, re.MULTILINE)}
    assert missing == {"chatty": {"4000"}, "quiet": {"2000"}}, "missing, told and counted are one number each"
