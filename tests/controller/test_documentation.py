"""docs/controller.md names every option, command and endpoint."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from greenagent.cli.controller import build_parser as controller_parser
from greenagent.cli.ctl.main import build_parser
from greenagent.controller.http import agent_api, people_api

PAGE = (Path(__file__).parents[2] / "docs" / "controller.md").read_text()


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        found.update(option for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                assert f"`{name}" in PAGE
                found |= options_of(command)
    return found - {"--help"}


def test_every_option_is_documented() -> None:
    options = options_of(controller_parser()) | options_of(build_parser())
    assert {option for option in options if f"{option}" not in PAGE} == set()


def test_every_endpoint_is_documented() -> None:
    for name in agent_api.ENDPOINTS:
        assert re.search(f"`(GET|POST) {name}[?`]", PAGE), name
    for path in people_api.ROUTES:
        assert re.search(f"`(GET|POST) {re.escape(path.replace('{job_id}', '{id}'))}`", PAGE), path
