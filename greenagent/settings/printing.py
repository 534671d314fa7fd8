"""The effective settings as text for people, without secrets."""

from __future__ import annotations

import re
from typing import Any

from greenagent.settings.checks import hide_password
from greenagent.settings.kinds import show
from greenagent.settings.loader import Loaded
from greenagent.values.levels import LevelSet

_SECRET_NAME = re.compile(r"pass(word|wd|phrase)?$|secret|token|credential|api_?key|private_?key$", re.IGNORECASE)
_URL_WITH_ACCOUNT = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/@\"']*@[^\s\"']*")
HIDDEN = "***"


def print_config(loaded: Loaded) -> str:
    """One line per setting: ``section.key = value  # origin``; origin is default, file, environment or flag."""
    lines = [
        f"{entry.name} = {show_hidden(entry.value, entry.place[-1] == 'levels')}  # {entry.origin}"
        for entry in loaded.entries
    ]
    return "".join(f"{line}\n" for line in lines)


def show_hidden(value: Any, levels: bool = False) -> str:
    """A value as TOML would have it, passwords in URLs and values of secret-looking names replaced."""
    if levels:
        return _show_levels(value)
    return show(hide_secrets(value))


def hide_secrets(value: Any) -> Any:
    """The value with every secret in it replaced by ``***``."""
    if isinstance(value, dict):
        return {key: HIDDEN if _SECRET_NAME.search(key) else hide_secrets(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [hide_secrets(item) for item in value]
    if isinstance(value, str):
        return _URL_WITH_ACCOUNT.sub(lambda match: hide_password(match.group()), value)
    return value


def _show_levels(levels: LevelSet | None) -> str:
    if levels is None:
        return "[]"
    return show(str(levels))
