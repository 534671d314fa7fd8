"""The four programs as processes of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from greenagent.cli.agent.options import build_parser
from greenagent.cli.agent.questions import answer
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SEED = ROOT / "tests/data/seed-config.toml"
PROGRAMS = {
    "agent": "greenagent",
    "logs": "greenagent-logs",
    "controller": "greenagent-controller",
    "ctl": "greenagent-ctl",
}
"""By the module below ``greenagent.cli``."""


class Done(NamedTuple):
    """How a program ended."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The JSON it printed."""
        return json.loads(self.out)


def command(module: str, *arguments: object) -> list[str]:
    """The command line of a program of this checkout."""
    return [sys.executable, "-m", f"greenagent.cli.{module}", *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    """Ours, in which this checkout is found from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


def check(folder: Path, text: str, *options: str, **variables: str) -> tuple[int, list[str]]:
    """The exit code of ``greenagent --check`` and its lines on stderr, without the file's name.

    Within this process, since starting another takes most of the time; one of its own with any ``variables``.
    """
    path = folder / "agent.toml"
    path.write_text(text)
    arguments = ["-c", str(path), "--check", *options]
    if variables:
        words = command("agent", *arguments)
        done = Done(*_run(words, cwd=folder, env=environment(**variables)))
    else:
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err, chdir(folder):
            code = answer(build_parser().parse_args(arguments))
        done = Done(code, out.getvalue(), err.getvalue())
    assert ("the configuration is fine" in done.out) == (done.code == 0)
    return done.code, [line.replace(f"{path}:", "") for line in done.err.splitlines()]


@contextmanager
def chdir(folder: Path) -> Iterator[None]:
    """As ``contextlib.chdir``, which Python 3.10 does not have."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _run(words: list[str], **options: Any) -> tuple[int, str, str]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, **options)
    return done.returncode, done.stdout, done.stderr


def refused(*options: str, code: int = 1, folder: Path = ROOT) -> str:
    """What a controller says that does not start, one line of its own."""
    options = options if "--listen" in options else ("--listen", "127.0.0.1:0", *options)
    done = subprocess.run(
        command("controller", *options),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env=environment(),
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("greenagent-controller: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


_WAITING = re.compile(
    r"greenagent-ctl: (?:waiting for (?:\d+:\d+ \(last contact (?:\d+ [smhd] ago|never)\)|an agent with the role .*)"
    r"|handed over to \d+:\d+, waits there for .*)\n"
)


def without_waiting(text: str) -> str:
    """What ``greenagent-ctl`` said, but for what a job waited for: on a busy machine every job may have to."""
    return _WAITING.sub("", text)


class Ctl:
    """A running ``greenagent-ctl``; its output goes to files, so that the test's hub can go on."""

    def __init__(self, *arguments: object, stdin: Any = "", stderr: Any = None, **environment: str) -> None:
        """``stdin`` is a text, or a file."""
        if isinstance(stdin, str):
            given = tempfile.TemporaryFile()  # noqa: SIM115
            given.write(stdin.encode())
            given.seek(0)
            stdin = given
        self._out = tempfile.TemporaryFile()  # noqa: SIM115
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            command("ctl", *arguments),
            stdin=stdin,
            stdout=self._out,
            stderr=self._err if stderr is None else stderr,
            cwd=ROOT,
            env={**os.environ, **environment},
        )

    @property
    def out(self) -> str:
        return os.pread(self._out.fileno(), 10_000_000, 0).decode()

    @property
    def err(self) -> str:
        return os.pread(self._err.fileno(), 10_000_000, 0).decode()

    def done(self, timeout: float = 20) -> Done:
        wait_until(lambda: self.process.poll() is not None, timeout, f"greenagent-ctl to end ({self.err})")
        done = Done(self.process.returncode, self.out, without_waiting(self.err))
        self._out.close()
        self._err.close()
        assert "Traceback" not in done.err
        return done
