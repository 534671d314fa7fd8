"""Reads a TOML file: the only module that touches the ``toml`` library, and the file itself."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import toml

from greenagent.settings.problems import Place, SettingsError
from greenagent.settings.toml_text import TomlProblem, decode_key, plain_toml

MAXIMUM_SIZE: Final = 4 * 1024 * 1024
"""Bytes; no configuration is longer, but a log given by mistake is."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a file holds, and the line of every table and key in it."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    lines: Mapping[Place, int] = field(default_factory=dict)


def read_document(path: Path) -> Document:
    """Reads and decodes a TOML file.

    Raises SettingsError with one line that names the file, the line where there is one, and what to do.
    """
    text = _read_text(path)
    try:
        plain = plain_toml(text)
    except TomlProblem as problem:
        raise SettingsError([f"{path}:{problem.line}: {problem.text}"]) from problem
    try:
        values = toml.loads(plain.text, decoder=_Decoder())
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        # The library raises its own error, a ValueError, and in odd cases whatever befell it.
        number = getattr(error, "lineno", 0)
        line = plain.origins[min(number, len(plain.origins)) - 1] if number and plain.origins else 1
        reason = "a key and a table of this name exclude each other" if "exists" in str(error) else str(error)
        raise SettingsError([f"{path}:{line}: {' '.join(reason.split())}"]) from error
    return Document(path, _decode_keys(values), plain.places)


def _read_text(path: Path) -> str:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise SettingsError([f"{path}: is a folder, name the configuration file in it"])
        if not stat.S_ISREG(status.st_mode):
            raise SettingsError([f"{path}: is not a regular file"])
        if status.st_size > MAXIMUM_SIZE:
            raise SettingsError([f"{path}: is larger than {MAXIMUM_SIZE} bytes, this is no configuration"])
        with open(path, "rb") as file:
            content = file.read(MAXIMUM_SIZE + 1)
    except FileNotFoundError as error:
        raise SettingsError([f"{path}: there is no such file, give the configuration with -c FILE"]) from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise SettingsError([f"{path}: cannot be read: {reason}"]) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError([f"{path}:{line}: is not UTF-8 text, save the file in that encoding"]) from error


class _Decoder(toml.TomlDecoder):  # type: ignore[type-arg]
    """The library's decoder, for the plain form: lists may mix types, tables may stand in lists."""

    def load_value(self, v: str, strictly_valid: bool = True) -> tuple[Any, str]:
        if v[:1] == '"':
            return json.loads(v), "str"
        value: tuple[Any, str] = super().load_value(v, strictly_valid)
        return value

    def load_array(self, a: str) -> list[Any]:
        return [self.load_value(item)[0] for item in _split(a)]

    def load_inline_object(
        self, line: str, currentlevel: Any, multikey: bool = False, multibackslash: bool = False
    ) -> None:
        for item in _split(line):
            self.load_line(item, currentlevel, multikey, multibackslash)


def _split(text: str) -> list[str]:
    """The items between the outer brackets; texts in the plain form hold neither commas nor brackets."""
    items: list[str] = []
    depth = 0
    current = ""
    for character in text[1:-1]:
        if character == "," and not depth:
            items.append(current.strip())
            current = ""
            continue
        depth += (character in "[{") - (character in "]}")
        current += character
    return [*items, current.strip()] if current.strip() else items


def _decode_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {decode_key(key): _decode_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode_keys(item) for item in value]
    return value
