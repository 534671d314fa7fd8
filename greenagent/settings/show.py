"""The effective settings as text for people, without secrets."""

from __future__ import annotations

import json
import re
from typing import Any

from greenagent.settings.models import Settings
from greenagent.settings.schema import LEVELS, Setting, hide_passwords, walk

_SECRET_NAME = re.compile(r"pass(word|wd|phrase)?$|secret|token|credential|api_?key|private_?key$", re.IGNORECASE)


def print_config(settings: Settings) -> str:
    """One line per setting: ``section.key = value  # origin``; origin is default, file, environment or flag."""
    lines = []
    for heading, part in settings.sections().items():
        if part.section.variant:
            lines.append(f"{heading}.type = {show(part.section.variant)}  # file\n")
        for name, setting, value in walk(part):
            origin = settings.origins.get(f"{heading}.{name}", "default")
            lines.append(f"{heading}.{name} = {show_setting(setting, value)}  # {origin}\n")
    return "".join(lines)


def show_setting(setting: Setting, value: Any) -> str:
    """The value of a setting as TOML would have it; passwords in URLs and values of secret-looking names replaced."""
    return "[]" if setting.kind is LEVELS and value is None else show(value)


def show(value: Any) -> str:
    """A value likewise; nothing is shown as an empty text."""
    if isinstance(value, dict):
        shown = {key: "***" if _SECRET_NAME.search(key) else item for key, item in value.items()}
        return "{" + ", ".join(f"{json.dumps(key)} = {show(item)}" for key, item in shown.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str):
        value = hide_passwords(value)
    return json.dumps("" if value is None else value, ensure_ascii=False, default=str)
