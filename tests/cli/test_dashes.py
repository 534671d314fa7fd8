"""``--`` as the value of an option, which argparse before Python 3.13 turned into an empty list."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterator

import pytest

from greenagent.cli.agent.options import build_parser as agent
from greenagent.cli.controller import build_parser as controller
from greenagent.cli.ctl.main import build_parser as ctl
from greenagent.cli.logs.__main__ import build_parser as logs
from tests.support.programs import ROOT, command, environment


def options(parser: argparse.ArgumentParser, *words: str) -> Iterator[tuple[list[str], str, bool]]:
    """Each option that takes a value: the words in front of it, itself, and whether it may be given again."""
    needed = ["x" for action in parser._actions if not action.option_strings and action.nargs is None]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from options(below, *words, name)
        elif action.nargs is None:
            for option in action.option_strings:
                yield [*words, *needed], option, isinstance(action, argparse._AppendAction)


@pytest.mark.parametrize("build", [agent, controller, ctl, logs])
def test_two_dashes_are_text_or_refused(build, capsys: pytest.CaptureFixture[str]) -> None:
    parser = build()
    needed = ["agents"] if build is ctl else []
    found = 0
    for words, option, is_list in options(parser):
        given = [*words, f"{option}=--" if len(option) > 2 else f"{option}--", *([] if words else needed)]
        read, refused = _read(parser, given, capsys)
        values = [str(value) for value in vars(read).values() if str(value) in ("--", "['--']")]
        assert values == ["['--']" if is_list else "--"] or "'--'" in refused, given
        found += 1
    assert found > 5


def _read(
    parser: argparse.ArgumentParser, given: list[str], capsys: pytest.CaptureFixture[str]
) -> tuple[argparse.Namespace, str]:
    """What was read, or why it was refused."""
    try:
        return parser.parse_known_args(given)[0], ""
    except SystemExit:
        return argparse.Namespace(), capsys.readouterr().err


def test_a_configuration_named_two_dashes_is_missing() -> None:
    done = subprocess.run(
        command("agent", "--config=--", "--check"),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("greenagent: --: there is no such file")
