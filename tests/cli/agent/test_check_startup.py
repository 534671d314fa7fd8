"""``greenagent --check`` warns of startup tasks that can only fail (protocol 11)."""

from pathlib import Path

import pytest

from tests.settings.support import MINIMAL
from tests.support.programs import SEED, check

EXTENSION = """
[extensions.greet]
binary = "echo"
args = ["hello", "{who}"]
"""
FAILING = {
    "execute without a name": ('name = "execute"', "args.name must name the executable"),
    "an extension without what it needs": (
        'name = "greet"',
        "extension 'greet' needs the run argument 'who', which is missing",
    ),
    "an extension that would be left": ('name = "greet"\nargs = {who = "../x"}', "args.who leaves the directory"),
    "a script without a name": ('name = "jumpscript"', "jumpscript needs args.name"),
    "a script that is not there": ('name = "jumpscript"\nargs = {name = "gone"}', "there is no script"),
    "a script without a text": ('name = "jumpscript_content"', "jumpscript_content needs 'hash'"),
}
FINE = {
    "execute": 'name = "execute"\nargs = {name = "true"}',
    "extension": 'name = "greet"\nargs = {who = "you"}',
    "script": 'name = "jumpscript"\nargs = {name = "here"}',
    "text": 'name = "jumpscript_content"\ndata = \'{"content": "def action(): pass"}\'',
    "bash": 'name = "bash"\ndata = "true"',
    "built-in": 'name = "ping"',
}


@pytest.mark.parametrize("case", FAILING)
def test_a_task_that_can_only_fail_is_warned_of(tmp_path: Path, case: str) -> None:
    task, reason = FAILING[case]
    code, lines = check(tmp_path, f"{MINIMAL}{EXTENSION}[startup.task]\n{task}\n")
    assert code == 0, "the agent starts all the same"
    [line] = [line for line in lines if "startup" in line]
    assert line.startswith(f"greenagent: warning: 12: [startup.task] name: this task ends with ERROR: {reason}")


def test_the_others_are_fine(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/here.py").write_text("def action(): pass\n")
    tasks = "".join(f"[startup.{number}]\n{task}\n" for number, task in enumerate(FINE.values()))
    assert check(tmp_path, f"{MINIMAL}{EXTENSION}{tasks}") == (0, [])


def test_an_extension_wins_over_a_command_of_its_name(tmp_path: Path) -> None:
    text = MINIMAL + '[extensions.execute]\nbinary = "true"\n[startup.task]\nname = "execute"\n'
    assert check(tmp_path, text) == (0, [])


def test_the_original_configuration_is_accepted(tmp_path: Path) -> None:
    """Its own task can only fail, for it misspells the domain."""
    code, lines = check(tmp_path, SEED.read_text())
    assert code == 0
    [line] = [line for line in lines if "ends with ERROR" in line]
    assert line.endswith("extension 'do_something' needs the run argument 'domain', which is missing")
