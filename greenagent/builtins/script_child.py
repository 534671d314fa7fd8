"""The program that runs one jumpscript, in a process of its own (protocol 10.4).

It is started as ``PYTHON script_child.py`` and reads one JSON object from its input: ``path`` (a
script's file) or ``content`` (its text), and ``args``. It calls the script's ``action(**args)``, or
``action(args)`` where args is no object or its names do not fit, as the first original does. It
prints what that returns as JSON on level 20, or an exception as a JSON object on level 9, and then
exits 1. Whatever the script itself prints goes through as it is.

Any Python from 3.7 on may be configured to run it: it imports the standard library only, nothing
of ours.
"""

from __future__ import annotations

import json
import linecache
import os
import stat
import sys
import traceback
import types
from typing import Any, Callable, TextIO  # noqa: UP035  Python 3.7 may run this

MODULE = "jumpscript"
WITHOUT_FILE = "<jumpscript>"


class ScriptError(Exception):
    """The script cannot be run, or what it returns cannot be told; the text says why."""


class LineKeeper:
    """Knows whether the script left a line of its output unfinished: ours must begin a new one."""

    def __init__(self, stream: TextIO) -> None:
        self.is_open = False
        self._write = stream.write
        stream.write = self.write  # type: ignore[method-assign]

    def write(self, text: str) -> int:
        if text:
            self.is_open = not text.endswith("\n")
        return self._write(text)


def read_task() -> tuple[bytes, str, Any]:
    """The script's text, its name for errors, and the arguments."""
    try:
        task = json.loads(sys.stdin.buffer.read().decode("utf-8"))
    except ValueError as error:
        raise ScriptError(f"the input is not JSON: {error}") from None
    if not isinstance(task, dict) or not (isinstance(task.get("path"), str) or isinstance(task.get("content"), str)):
        raise ScriptError("the input names neither path nor content")
    arguments = {} if task.get("args") is None else task["args"]
    if isinstance(task.get("path"), str):
        path = os.path.abspath(task["path"])
        try:
            return read_file(path), path, arguments
        except OSError as error:
            raise ScriptError(f"{path}: {error.strerror}") from None
    return task["content"].encode("utf-8", "surrogatepass"), WITHOUT_FILE, arguments


def read_file(path: str) -> bytes:
    """What is in a plain file: anything else, such as a pipe, would keep us waiting. Raises OSError, ScriptError."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ScriptError(f"{path} is no plain file")
        return file.read()


def call(action: Callable[..., Any], arguments: Any) -> Any:
    """``action(**arguments)``, or ``action(arguments)`` where they are not its names."""
    if not isinstance(arguments, dict):
        return action(arguments)
    try:
        return action(**arguments)
    except TypeError as error:
        if not arguments or _came_from_inside(error):
            raise
        misfit = error
    try:
        return action(arguments)
    except TypeError as error:
        if _came_from_inside(error):
            raise
        raise misfit from None


def _came_from_inside(error: TypeError) -> bool:
    """Whether the function had begun; else its arguments do not fit."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is not None


def run(source: bytes, name: str, arguments: Any) -> str:
    """Loads the script and calls its action; returns the JSON of what that returns."""
    # Our own folder comes first on the path of modules: it is none of the script's business.
    sys.path[0:1] = [os.path.dirname(name)] if name != WITHOUT_FILE else []
    module = types.ModuleType(MODULE)
    module.__file__ = name
    sys.modules[MODULE] = module
    if name == WITHOUT_FILE:
        text = source.decode("utf-8", "replace")
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(source, name, "exec"), module.__dict__)
    action = getattr(module, "action", None)
    if not callable(action):
        raise ScriptError(f"{name} has no function named action")
    value = call(action, arguments)
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ScriptError(f"what action returned is not JSON: {error}") from None


def describe(error: BaseException) -> dict[str, str]:
    """An exception as a controller gets it; the frames of this program are left out."""
    if isinstance(error, ScriptError):
        return {"message": str(error), "type": "ScriptError"}
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return {
        "message": str(error) or type(error).__name__,
        "type": type(error).__name__,
        "traceback": "".join(traceback.format_exception(type(error), error, frames)),
    }


def emit(text: str, keeper: LineKeeper) -> None:
    """Prints one message, on a line of its own, past anything the script put in place of its output."""
    try:
        sys.stdout.flush()
    except (AttributeError, OSError, ValueError):
        pass  # the script closed or replaced it
    data = ("\n" if keeper.is_open else "").encode() + text.encode("ascii")
    while data:
        data = data[os.write(1, data) :]


def main() -> int:
    """Returns the exit code."""
    keeper = LineKeeper(sys.stdout)
    try:
        result = run(*read_task())
    except SystemExit:
        raise
    except BaseException as error:
        emit("9::" + json.dumps(describe(error)) + "\n", keeper)
        return 1
    # One line between the marks: JSON escapes newlines, so a ":::" in it cannot end the message.
    emit("20:::" + result + "\n:::\n", keeper)
    return 0


if __name__ == "__main__":
    sys.exit(main())
