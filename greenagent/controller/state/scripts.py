"""Scripts by hash: stored for ``jumpscript_content``, fetched by agents (protocol 10.4)."""

from __future__ import annotations

import hashlib
import json
from sys import getsizeof
from typing import Final, NamedTuple

from greenagent.controller.limits import Limits
from greenagent.controller.state.state_file import StateFile, Statement
from greenagent.runtime.clock import monotonic_epoch
from greenagent.values.command import load_json
from greenagent.values.errors import CommandError


class Script(NamedTuple):
    """A script and its md5 in hexadecimal.

    md5 is the protocol's name for a script; no secret hangs on it.
    """

    digest: str
    content: str

    @classmethod
    def of(cls, content: str) -> Script:
        return cls(hashlib.md5(content.encode("utf-8", "replace"), usedforsecurity=False).hexdigest(), content)


OVERHEAD: Final = 500
"""Bytes a kept script costs beside its text."""
_INSERT: Final = "INSERT OR REPLACE INTO scripts VALUES (?, ?, ?)"

Scripts = dict[str, tuple[str, float]]
"""By hash, each with the time it was last stored."""


class ScriptStore:
    """Keeps scripts for a day after they were last stored, within a number of bytes."""

    def __init__(self, file: StateFile, limits: Limits) -> None:
        self._file = file
        self._limits = limits
        self._scripts: Scripts = {}
        self._bytes = 0

    def load(self) -> None:
        """Reads what the state file keeps. Raises StateError."""
        for digest, content, stored in self._file.read("SELECT hash, content, stored FROM scripts ORDER BY stored"):
            self._keep(digest, content, stored)

    def store(self, script: Script) -> str:
        """Keeps a script and returns its hash. One that is known is never replaced by another. Raises StateError."""
        digest, content = script
        if digest in self._scripts:
            content = self._scripts[digest][0]
        now = monotonic_epoch()
        drop = self._superfluous(_size(content))
        insertion = (_INSERT, (digest, content, now))
        self._file.write([insertion, *_removals(drop)])
        self._keep(digest, content, now)
        self._drop(drop)
        return digest

    def rows(self) -> list[Statement]:
        """All scripts as they are in the state file."""
        return [(_INSERT, (digest, *kept)) for digest, kept in self._scripts.items()]

    def get(self, digest: str) -> str | None:
        kept = self._scripts.get(digest.lower())
        return kept[0] if kept is not None else None

    def trim(self) -> None:
        """Drops scripts that are too old or too many, oldest first. Raises StateError."""
        if drop := self._superfluous():
            self._file.write(_removals(drop))
            self._drop(drop)

    def _superfluous(self, wanted: int = 0) -> Scripts:
        """The scripts that are too old, and the oldest ones where ``wanted`` bytes more would be too many."""
        expired = monotonic_epoch() - self._limits.script_age
        left = self._bytes + wanted
        found: Scripts = {}
        for digest, (content, stored) in self._scripts.items():
            if stored >= expired and left <= self._limits.script_bytes:
                break
            found[digest] = content, stored
            left -= _size(content)
        return found

    def _keep(self, digest: str, content: str, stored: float) -> None:
        old = self._scripts.pop(digest, None)
        self._scripts[digest] = content, stored
        self._bytes += _size(content) - (_size(old[0]) if old is not None else 0)

    def _drop(self, scripts: Scripts) -> None:
        for digest, kept in scripts.items():
            if self._scripts.get(digest) == kept:  # it was not stored again while the file was written
                del self._scripts[digest]
                self._bytes -= _size(kept[0])


def _size(content: str) -> int:
    return OVERHEAD + getsizeof(content)


def parse_script(data: str) -> tuple[str, Script | None, str]:
    """The data of a ``jumpscript_content`` command with ``hash`` for ``content``, the script, or the hash alone.

    Raises CommandError when it cannot be read.
    """
    try:
        wanted = load_json(data)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"'data' of jumpscript_content is not JSON: {error}") from error
    if not isinstance(wanted, dict):
        raise CommandError("'data' of jumpscript_content must be an object with 'content' and 'args'")
    content = wanted.pop("content", None)
    if content is None and isinstance(wanted.get("hash"), str):
        return data, None, wanted["hash"]
    if not isinstance(content, str) or not content:
        raise CommandError("'data' of jumpscript_content needs 'content', the text of the script")
    script = Script.of(content)
    return json.dumps({**wanted, "hash": script.digest}), script, ""


def _removals(scripts: Scripts) -> list[Statement]:
    statement = "DELETE FROM scripts WHERE hash = ? AND stored = ?"
    return [(statement, (digest, stored)) for digest, (_, stored) in scripts.items()]
