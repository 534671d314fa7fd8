"""``bash``, ``jumpscript`` and ``jumpscript_content``: scripts in a fresh process (protocol 10.4)."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from greenagent.jobs.commands import Execution, Resolver, data_object
from greenagent.settings.models import Settings
from greenagent.values.command import Command
from greenagent.values.errors import CommandError, GreenagentError

CACHED_SCRIPTS: Final = 100
"""Scripts fetched by their hash that are kept; a hash names its text for ever."""

CHILD_PROGRAM: Final = str(Path(__file__).parents[1] / "builtins" / "script_child.py")
"""The program that runs a script; it is executed by path, with any Python."""
_HASH: Final = re.compile(r"[0-9a-f]{32}\Z")

FetchScript = Callable[[str, str], bytes]
"""``(controller, hash)``: the text of a script. Raises GreenagentError."""


class Scripts:
    """Turns script commands into what is executed."""

    def __init__(self, settings: Callable[[], Settings], fetch: FetchScript) -> None:
        self._settings = settings
        self._fetch = fetch
        self._fetched: dict[str, str] = {}
        self.commands: dict[str, Resolver] = {
            "bash": self.bash,
            "jumpscript": self.jumpscript,
            "jumpscript_content": self.jumpscript_content,
        }

    def bash(self, command: Command, controller: str | None) -> Execution:
        """``data`` is a script for bash, which reads it from its input."""
        return self._execution(command, "bash", ("-s", "--", *command.arguments.args), command.data)

    def jumpscript(self, command: Command, controller: str | None) -> Execution:
        """``domain`` and ``name`` name a file below ``main.scripts_dir``; ``data`` is its arguments."""
        arguments = command.arguments
        name = posixpath.join(arguments.domain, arguments.name)
        if not arguments.name:
            raise CommandError("jumpscript needs args.name, the script's name")
        if posixpath.isabs(name) or ".." in name.split("/"):
            raise CommandError(f"the script '{name}' lies outside of main.scripts_dir")
        path = (self._settings().main.scripts_dir / f"{name}.py").absolute()
        if not path.is_file():
            raise CommandError(f"there is no script {path}")
        return self._python(command, {"path": str(path), "args": data_object(command)})

    def jumpscript_content(self, command: Command, controller: str | None) -> Execution:
        """``data`` holds ``hash`` (or ``content``) and ``args``; the text is fetched from the asking controller."""
        data = data_object(command)
        content = data.get("content")
        if content is None:
            content = self._by_hash(data.get("hash"), controller)
        if not isinstance(content, str):
            raise CommandError("jumpscript_content needs 'hash' or 'content' in its data, as text")
        return self._python(command, {"content": content, "args": data.get("args") or {}})

    def _by_hash(self, digest: object, controller: str | None) -> str:
        if not isinstance(digest, str) or not _HASH.match(digest):
            raise CommandError("jumpscript_content needs 'hash', the MD5 of the script in hexadecimal digits")
        if digest not in self._fetched:
            if controller is None:
                raise CommandError(f"script {digest} cannot be fetched: no controller asked for it")
            try:
                text = self._fetch(controller, digest)
            except GreenagentError as error:
                raise CommandError(f"script {digest} cannot be fetched: {error}") from error
            # The original's name for a script; it guards against mix-ups, not against attackers.
            if hashlib.md5(text, usedforsecurity=False).hexdigest() != digest:
                raise CommandError(f"what controller {controller} sent as script {digest} has another hash")
            while len(self._fetched) >= CACHED_SCRIPTS:
                del self._fetched[next(iter(self._fetched))]
            self._fetched[digest] = text.decode("utf-8", "replace")
        return self._fetched[digest]

    def _python(self, command: Command, task: dict[str, Any]) -> Execution:
        python = self._settings().main.script_python or sys.executable
        return self._execution(command, python, (CHILD_PROGRAM,), json.dumps(task))

    def _execution(self, command: Command, program: str, arguments: tuple[str, ...], data: str) -> Execution:
        own = command.arguments
        return Execution(program, arguments, own.working_dir, dict(own.env), data, own.leave_children)
