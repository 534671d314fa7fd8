"""The four programs as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

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
    """The exit code of ``greenagent --check`` and its lines on stderr, without the file's name."""
    path = folder / "agent.toml"
    path.write_text(text)
    done = subprocess.run(
        command("agent", "-c", path, "--check", *options),
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(**variables),
        timeout=30,
    )
    assert ("the configuration is fine" in done.stdout) == (done.returncode == 0)
    return done.returncode, [line.replace(f"{path}:", "") for line in done.stderr.splitlines()]


def refused(*options: str, code: int = 1, folder: Path = ROOT) -> str:
    """What a controller says that does not start, one line of its own."""
    options = options if "--listen" in options else ("--listen", "127.0.0.1:0", *options)
    done = subprocess.run(
        command("controller", *options),
        capture_output=True,
        text=True,
        timeout=30,
        cwd=folder,
        env=environment(),
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("greenagent-controller: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


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
        done = Done(self.process.returncode, self.out, self.err)
        self._out.close()
        self._err.close()
        assert "Traceback" not in done.err
        return done
