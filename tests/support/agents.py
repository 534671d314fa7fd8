"""Runs the real agent as a process of its own, for end-to-end tests."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gevent

from greenagent.logs.folder import LogFolder
from greenagent.logs.read.query import LogQuery, newest_first
from greenagent.process.orphans import find_by_tag
from greenagent.values.levels import LevelSet
from greenagent.values.message import Record
from tests.support.commands import built_in
from tests.support.job_lives import tagged_processes
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

CONFIGURATION = """
[main]
gid = 1
nid = 10
max_jobs = {max_jobs}
message_id_file = "{folder}/mid"
history_file = "{folder}/history"
roles = {roles}
kill_grace = {kill_grace}
pipe_drain = 1
drain_timeout = {drain_timeout}
{main}

{controllers}

[logging.db]
type = "DB"
log_dir = "{folder}/logs"
levels = []
{logging}

[logging.ac]
type = "AC"
flush_int = 1
batch_size = 1000
controllers = []
levels = [2]

[stats]
{stats}
controllers = []

{more}
"""


def configuration(
    folder: Path,
    controllers: Mapping[str, str],
    *,
    max_jobs: int = 100,
    roles: Iterable[str] = (),
    kill_grace: float = 2,
    drain_timeout: float = 30,
    main: str = "",
    logging: str = "",
    stats: str = "interval = 60",
    controller: str = "rerun_ended = false",
    more: str = "",
) -> str:
    """A configuration of an agent whose files all lie in ``folder``; ``controllers`` maps keys to URLs.

    ``main``, ``logging``, ``controller`` and ``more`` are further lines for section main, for the DB logger, for each
    controller, and at the end;
    ``stats`` are those of section stats.
    """
    sections = "\n".join(f'[controllers.{key}]\nurl = "{url}"\n{controller}' for key, url in controllers.items())
    return CONFIGURATION.format(
        folder=folder,
        max_jobs=max_jobs,
        roles=json.dumps(list(roles)),
        kill_grace=kill_grace,
        drain_timeout=drain_timeout,
        main=main,
        logging=logging,
        stats=stats,
        controllers=sections,
        more=more,
    )


READY = " is ready, polling "
"""What an agent says when it is, unless its verbosity keeps it back."""


class AgentFolder:
    """What an agent has written into its log databases."""

    folder: Path
    stderr: Any
    """What it has said."""

    def await_said(self, text: str, times: int = 1) -> None:
        """Waits for a text on its stderr: a thread writes there, a moment after what it tells of."""
        wait_until(lambda: self.stderr.count(text) >= times, what=f"the agent to say {text!r} {times} times")

    def newest(self, jobid: str, level: int) -> Record | None:
        """The newest line of a job and level, also while files are rotated."""
        query = LogQuery(jobid=jobid, levels=LevelSet(((level, level),)), limit=1)
        return next(newest_first(LogFolder(self.folder / "logs"), query), None)

    def rows(self, where: str = "1", *parameters: Any) -> list[tuple[Any, ...]]:
        """(id, jobid, level, data) of what current.db holds, in order."""
        connection = sqlite3.connect(self.folder / "logs" / "current.db", timeout=60)
        try:
            return connection.execute(
                f"SELECT id, jobid, level, data FROM logs WHERE {where} ORDER BY seq", parameters
            ).fetchall()
        finally:
            connection.close()


class AgentProcess(AgentFolder):
    """A real ``greenagent`` under test; its stderr goes to ``folder/stderr``."""

    def __init__(
        self,
        folder: Path,
        text: str,
        *options: str,
        environment: Mapping[str, str] | None = None,
        python_path: str = "",
        wrapper: Sequence[str] = (),
    ) -> None:
        """``wrapper``: a program with arguments that becomes the agent in the end."""
        self.folder = folder
        self.config = folder / "greenagent.toml"
        self.config.write_text(text)
        self.pid_file = folder / "pid"
        self._options = options
        self._wrapper = wrapper
        root = str(Path(__file__).parent.parent.parent)
        self._environment = {**os.environ, **(environment or {}), "PYTHONPATH": python_path or root}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> AgentProcess:
        """Starts it; returns when it is ready (its pid file is there) and has said so (a thread writes its lines)."""
        self.pid_file.unlink(missing_ok=True)
        is_read = not (self.folder / "stderr").is_fifo()
        said = self.stderr.count(READY) if (self.folder / "stderr").is_file() else 0
        says = is_read and not re.search(r'verbosity\s*=\s*"(warning|error)', self.config.read_text())
        with (self.folder / "stderr").open("ab") as stderr, (self.folder / "stdout").open("ab") as stdout:
            self.process = subprocess.Popen(
                [
                    *self._wrapper,
                    sys.executable,
                    "-m",
                    "greenagent.cli.agent",
                    "-c",
                    str(self.config),
                    "--pid-file",
                    str(self.pid_file),
                    *self._options,
                ],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=self._environment,
            )
        if wait:
            wait_until(
                lambda: (
                    self.poll() is not None
                    or (self.pid_file.exists() and (not says or self.stderr.count(READY) > said))
                ),
                20,
                "the agent is ready",
            )
            assert self.poll() is None, f"the agent ended at once:\n{self.stderr}"
        return self

    def poll(self) -> int | None:
        assert self.process is not None
        return self.process.poll()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    def wait(self, timeout: float = 20) -> int:
        """Waits for its end without blocking the hub; returns the exit code."""
        wait_until(lambda: self.poll() is not None, timeout, "the agent has ended")
        code = self.poll()
        assert code is not None
        return code

    def stop(self, timeout: float = 20) -> int:
        """Ends it with SIGTERM; returns the exit code."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None and self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            while self.poll() is None:
                gevent.sleep(0.005)

    def clean_up(self) -> None:
        """kill -9, and an end to everything its jobs left running: no test leaves a process behind."""
        self.kill()
        try:
            connection = sqlite3.connect(self.folder / "history.db")
            instances = {
                instance for (instance,) in connection.execute("SELECT value FROM meta WHERE key = 'instance'")
            }
            connection.close()
        except sqlite3.Error:
            instances = set()
        pids = {orphan.pid for instance in instances for orphan in find_by_tag(f"{instance}:")}
        for pid in pids | set(tagged_processes(self.folder)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


StartAgent = Callable[..., AgentProcess]
"""The fixture ``start_agent``."""


def assert_well(agent: AgentProcess, controller: RecordingController, name: str = "still-there") -> None:
    """It answers the next command, and never showed a traceback."""
    controller.push(built_in(name, "ping"))
    assert controller.wait_for_result(name, 30)["state"] == "SUCCESS"
    assert agent.poll() is None
    assert "Traceback" not in agent.stderr
    assert "internal error" not in agent.stderr, agent.stderr
