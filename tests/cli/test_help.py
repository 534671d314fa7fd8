"""Help and version of the four programs."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.programs import PROGRAMS, command, environment


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("module", "option"),
    [
        ("agent", "--help"),
        ("agent", "--version"),
        ("controller", "--help"),
        ("ctl", "--help"),
        ("ctl", "--version"),
        ("logs", "--help"),
    ],
)
def test_help_that_cannot_be_written_is_one_clear_line(module: str, option: str, unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(module, option),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            timeout=60,
        )
    assert done.stderr == f"{PROGRAMS[module]}: cannot write the output: No space left on device\n"
    assert done.returncode == (125 if module == "ctl" else 1)


def test_help_is_also_a_command_of_ctl() -> None:
    for words, option in ((["help"], ["--help"]), (["help", "jobs"], ["jobs", "--help"])):
        found = [subprocess.run(command("ctl", *one), capture_output=True, text=True) for one in (words, option)]
        assert [one.returncode for one in found] == [0, 0]
        assert found[0].stdout == found[1].stdout != ""
