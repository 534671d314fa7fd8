"""The effective settings as text for people, without secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from greenagent.settings.models import Settings
from greenagent.settings.schema import LEVELS, Setting, declared, hide_password

_SECRET_NAME = re.compile(r"pass(word|wd|phrase)?$|secret|token|credential|api_?key|private_?key$", re.IGNORECASE)
_URL_WITH_ACCOUNT = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/@\"']*@[^\s\"']*")
HIDDEN = "***"


def print_config(settings: Settings) -> str:
    """One line per setting: ``section.key = value  # origin``; origin is default, file, environment or flag."""
    sections = [section for group in settings.sections() for section in group.items()]
    return "".join(f"{line}\n" for heading, part in sections for line in _lines(heading, part, settings.origins))


def _lines(heading: str, part: Any, origins: Mapping[str, str]) -> Iterator[str]:
    if part.section.variant:
        yield f"{heading}.type = {show(part.section.variant)}  # file"
    shown = declared(part)
    for field in fields(part):
        name, value = f"{heading}.{field.name}", getattr(part, field.name)
        if is_dataclass(value):
            yield from _lines(name, value, origins)
        elif field.name in shown:
            yield f"{name} = {show_setting(shown[field.name], value)}  # {origins.get(name, 'default')}"


def show_setting(setting: Setting, value: Any) -> str:
    """The value of a setting as TOML would have it; passwords in URLs and values of secret-looking names replaced."""
    if setting.kind is LEVELS:
        return "[]" if value is None else show(str(value))
    return show(_hide_secrets(value))


def _hide_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: HIDDEN if _SECRET_NAME.search(key) else _hide_secrets(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hide_secrets(item) for item in value]
    if isinstance(value, str):
        return _URL_WITH_ACCOUNT.sub(lambda match: hide_password(match.group()), value)
    return value


def show(value: Any) -> str:
    """A value as TOML would have it; nothing is shown as an empty text."""
    if value is None:
        return '""'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {show(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value if isinstance(value, (bool, int, float)) else str(value), ensure_ascii=False)
