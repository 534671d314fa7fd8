"""Tools to inject faults: disks that are full or cannot be written, users without rights."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs
from tests.support.agents import AgentProcess, configuration
from tests.support.recording_controller import RecordingController


def lacking(right: str) -> None:
    """The test cannot inject its fault: skips loudly, fails under CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"tests of faults need the right to {right} under CI=true (run as root)")
    pytest.skip(f"SKIPPED FOR LACK OF THE RIGHT TO {right.upper()}: run as root")


def fill(disk: Path) -> Path:
    """Fills a disk to the last page; returns the file to remove."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return ballast
    raise AssertionError("the disk is not full")


class Immutable:
    """Makes files and folders unwritable for everybody, also for who has them open already."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._paths: list[Path] = []

    def set(self, *paths: Path) -> None:
        """Folders with what is in them. Skips the test where the file system cannot do it.

        Not the shared memory of sqlite: the kernel answers a write to that with SIGBUS. Nor links, which have no flags.
        """
        found = [*paths, *(inner for path in paths if path.is_dir() for inner in path.rglob("*"))]
        self._paths += [path for path in found if not path.name.endswith("-shm") and not path.is_symlink()]
        if subprocess.run([self._program, "+i", *self._paths], capture_output=True).returncode:
            self.lift()
            lacking("make files immutable")

    def lift(self) -> None:
        if self._paths:
            subprocess.run([self._program, "-i", *self._paths], capture_output=True)
            self._paths = []


class Unprivileged:
    """Starts agents as a user who owns nothing else and runs nothing else, in a folder of that user's own."""

    def __init__(self, controller: RecordingController) -> None:
        self.user = 64_000 + os.getpid() % 1000
        self.folder = Path(tempfile.mkdtemp(prefix="unprivileged-"))
        os.chown(self.folder, self.user, self.user)
        # It may read everything, since this Python may lie in a folder of root's, and has no other right.
        right = "-all,+dac_read_search"
        self._wrapper = [needs("setpriv"), f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        self._wrapper += [f"--inh-caps={right}", f"--ambient-caps={right}", "--"]
        self._controller = controller
        self._agents: list[AgentProcess] = []

    def start(self, wait: bool = True, processes: int | None = None, **more: Any) -> AgentProcess:
        """``processes``: how many processes and threads it may have from the start."""
        settings = configuration(self.folder, {"main": self._controller.url}, **more)
        limit = [] if processes is None else [needs("prlimit"), f"--nproc={processes}"]
        agent = AgentProcess(self.folder, settings, wrapper=[*self._wrapper, *limit])
        self._agents.append(agent)
        return agent.start(wait)

    def limit_processes(self, agent: AgentProcess, number: int | None) -> None:
        """``number``: of processes and threads; None for as many as may be."""
        soft = resource.getrlimit(resource.RLIMIT_NPROC)[1] if number is None else number
        words = [needs("prlimit"), "--pid", str(agent.pid), f"--nproc={'unlimited' if soft < 0 else soft}:"]
        subprocess.run([*self._wrapper, *words], check=True)

    def clean_up(self) -> None:
        for agent in self._agents:
            agent.clean_up()
        shutil.rmtree(self.folder)
