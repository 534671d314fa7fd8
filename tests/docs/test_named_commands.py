"""Command lines within the text of pages, and in what the programs say, have the commands and options there are."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import pytest

from greenagent.cli.agent.options import build_parser as agent
from greenagent.cli.controller import build_parser as controller
from greenagent.cli.ctl.main import build_parser as ctl
from greenagent.cli.logs.__main__ import SUBCOMMANDS
from greenagent.cli.logs.__main__ import build_parser as logs
from tests.docs.pages import PAGES, inline_code
from tests.support.programs import ROOT

LINE = re.compile(
    r"\b(greenagent(?:-logs|-ctl|-controller)?)((?: (?!greenagent)(?:--?[a-z][\w-]*|[\w:./-]+|'[^']*'))+)"
)
PARSERS = {
    "greenagent": agent(),
    "greenagent-controller": controller(),
    "greenagent-ctl": ctl(),
    "greenagent-logs": logs(),
}
OF_SUBCOMMANDS = {"greenagent-logs": {"--retry"}}
"""Options of sub-commands that have a parser of their own, made when they run."""


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    found = {option for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*map(options_of, action.choices.values()))
    return found


OPTIONS = {name: options_of(parser) | OF_SUBCOMMANDS.get(name, set()) for name, parser in PARSERS.items()}
COMMANDS = {"greenagent-ctl": set(ctl().commands), "greenagent-logs": set(SUBCOMMANDS)}


def faults(text: str) -> Iterator[str]:
    """What does not exist of the command lines in a text."""
    for program, rest in LINE.findall(text):
        words = rest.partition(" -- ")[0].split()
        for word in words:
            if word.startswith("-") and word != "--" and word not in OPTIONS[program]:
                yield f"{program} has no option {word}: {program}{rest}"
        is_command = len(words) > 1 and words[0].isalpha() and words[1].startswith("-")
        if is_command and words[0] not in COMMANDS.get(program, words):
            yield f"{program} has no command {words[0]}"


def test_a_fault_is_seen() -> None:
    assert list(faults("greenagent-ctl run --nowhere -- ls --here")) == [
        "greenagent-ctl has no option --nowhere: greenagent-ctl run --nowhere -- ls --here"
    ]
    assert list(faults("`greenagent-ctl dance --json`")) == ["greenagent-ctl has no command dance"]
    assert list(faults("greenagent-logs outbox --retry and greenagent -c FILE --check")) == []


@pytest.mark.parametrize("page", PAGES)
def test_command_lines_in_the_text_of_a_page(page: str) -> None:
    assert [fault for span in inline_code(page) for fault in faults(span)] == []


def test_command_lines_in_messages_and_service_files() -> None:
    files = [*ROOT.glob("greenagent/**/*.py"), *(path for path in ROOT.glob("etc/**/*") if path.is_file())]
    assert [f"{path}: {fault}" for path in files for fault in faults(path.read_text())] == []
