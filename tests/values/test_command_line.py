"""A command on one line for people."""

from __future__ import annotations

import pytest

from greenagent.values.command_line import MAX_LENGTH, command_line, command_line_of


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("execute", "sh", "web", ["-c", "exit 9"]), "sh -c 'exit 9'"),
        (("execute", "", "", ["-c"]), "execute -c"),
        (("jumpscript", "disk", "monitoring", []), "jumpscript monitoring/disk"),
        (("bash", "", "", ["a b"]), "bash 'a b'"),
        (("backup", "home", "web", ["now"]), "backup home now"),
        (("execute", "curl", "", ["https://me:geheim@host/"]), "curl 'https://***@host/'"),
    ],
)
def test_what_stands_there(given: tuple[str, str, str, list[str]], line: str) -> None:
    assert command_line_of(*given) == line


def test_a_password_is_not_laid_bare_by_the_cut() -> None:
    line = command_line(["x" * (MAX_LENGTH - 20), "https://me:geheim" + "g" * 1000 + "@host/"])
    assert "geheim" not in line
    assert len(line) == MAX_LENGTH + 3 or line.endswith("@host/'")
