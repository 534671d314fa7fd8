"""Which folder the relative paths of a configuration are against (design, section 8 "Paths").

That of the file, wherever the agent is started. Version 0.1 took the folder it was started in: state that lies only
there is used there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from greenagent.runtime.files import working_folder
from greenagent.settings.models import Settings
from greenagent.settings.problems import Place, Report


class _State(NamedTuple):
    """A path of the state, and what lies there once an agent has run."""

    place: Place
    path: Path
    sign: Path


def folder_of(path: Path) -> Path | None:
    """The folder that relative paths of this file are against; None where that is the working directory anyway."""
    try:
        return None if os.path.samefile(path.parent, ".") else path.parent
    except OSError:
        return path.parent


def choose(here: Settings, there: Settings, report: Report, *, reads_only: bool) -> Settings:
    """The settings to go by: with relative paths against the file's folder, or ``there``, the working directory.

    State in both is a problem: nobody can know which of it counts. A program that ``reads_only`` takes that in the
    file's folder: it may be started anywhere, also where another agent has its state.
    """
    differing = [(one, other) for one, other in zip(_state(here), _state(there), strict=True) if one != other]
    found_here = [other for one, other in differing if os.path.lexists(one.sign)]
    found_there = [other for _, other in differing if os.path.lexists(other.sign)]
    if not found_there or (found_here and reads_only):
        return here
    folder, started_in = os.path.abspath(here.path.parent), working_folder()
    if found_here:
        text = (
            f"state of an agent lies in {folder} ({_names(found_here)}) and in the folder that it is started in, "
            f"{started_in} ({_names(found_there)}): relative paths are against the first; "
            "while no agent runs, move away what does not count, or write full paths"
        )
        report.problem(found_here[0].place, text)
    else:
        text = (
            f"state of an agent lies in the folder that it is started in, {started_in} ({_names(found_there)}), as "
            "version 0.1 left it: all relative paths of this file are against that one; "
            f"stop the agent and move its state to {folder}, or write full paths"
        )
        report.warning(found_there[0].place, text)
    return there


def _state(settings: Settings) -> Iterator[_State]:
    for name in ("message_id_file", "history_file", "ledger_file"):
        path = getattr(settings.main, name)
        yield _State(("main", name), path, path)
    if (logger := settings.database_logger) is not None:
        yield _State(("logging", logger.name, "log_dir"), logger.log_dir, logger.log_dir / "current.db")


def _names(found: list[_State]) -> str:
    return ", ".join(str(state.path) for state in found)
