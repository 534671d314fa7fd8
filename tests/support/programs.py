"""The four programs as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

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
