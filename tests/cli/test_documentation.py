"""docs/controller.md names every option and command of ``greenagent-controller`` and ``greenagent-ctl``."""

from __future__ import annotations

import argparse

from greenagent.cli.controller import build_parser as controller_parser
from greenagent.cli.ctl.main import build_parser
from tests.support.programs import ROOT

PAGE = (ROOT / "docs" / "controller.md").read_text()


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        found.update(option for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                assert f"`{command.prog.partition(' ')[2]}" in PAGE
                found |= options_of(command)
    return found - {"--help"}


def test_every_option_is_documented() -> None:
    options = options_of(controller_parser()) | options_of(build_parser())
    assert {option for option in options if f"{option}" not in PAGE} == set()
