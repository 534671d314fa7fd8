"""What becomes of the output of ``greenagent --check`` and ``--print-config``."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.settings.support import MINIMAL
from tests.support.programs import SEED, command, environment

OPTIONS = ("--check", "--print-config")


@pytest.mark.parametrize("option", OPTIONS)
def test_a_reader_that_goes_away_ends_it_silently(option: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command("agent", "-c", SEED, option),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        restore_signals=True,
        timeout=60,
    )
    os.close(writing)
    assert done.returncode == -13  # SIGPIPE: 141 in a shell
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("option", OPTIONS)
def test_output_that_cannot_be_written_is_one_clear_line(tmp_path: Path, option: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(MINIMAL)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("agent", "-c", path, option),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            timeout=60,
        )
    assert done.stderr.splitlines()[-1] == "greenagent: cannot write the output: No space left on device"
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
