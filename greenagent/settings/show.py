"""The effective settings as text for people, without secrets unless these are asked for."""

from __future__ import annotations

import json
from typing import Any

from greenagent.settings.models import Settings
from greenagent.settings.schema import LEVELS, Setting, walk
from greenagent.values.text import hide_passwords

HIDDEN = "***"


def print_config(settings: Settings, secrets: bool = False) -> str:
    """One line per setting: ``section.key = value  # origin``; origin is default, file, environment or flag."""
    lines = []
    for heading, part in settings.sections().items():
        if part.section.variant:
            lines.append(f"{heading}.type = {show(part.section.variant)}  # file\n")
        for name, setting, value in walk(part):
            origin = settings.origins.get(f"{heading}.{name}", "default")
            shown = show(value) if secrets else show_setting(setting, value)
            lines.append(f"{heading}.{name} = {shown}  # {origin}\n")
    return "".join(lines)


def show_setting(setting: Setting, value: Any) -> str:
    """The value of a setting as TOML would have it; of a secret one, and in URLs, what nobody should see is hidden."""
    if setting.kind is LEVELS and value is None:
        return "[]"
    return hide_passwords(show(_hide(value) if setting.secret else value))


def _hide(value: Any) -> Any:
    if isinstance(value, dict):
        return dict.fromkeys(value, HIDDEN)
    if isinstance(value, tuple):
        return (HIDDEN,) * len(value)
    return value and HIDDEN


def show(value: Any) -> str:
    """A value likewise, all of it; nothing is shown as an empty text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {show(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps("" if value is None else value, ensure_ascii=False, default=str)
