"""A controller, an agent and a recorder of log lines in one folder, for the crash test and the soak.

Standard library only: what watches the agent must not share its code.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
GID, NID = 1, 10
TERMINAL = ("SUCCESS", "ERROR", "TIMEOUT", "KILLED", "UNKNOWN_CMD")
"""States of jobs that have ended."""

CONFIGURATION = """
[main]
gid = 1
nid = 10
max_jobs = {max_jobs}
message_id_file = "{folder}/message-id"
history_file = "{folder}/history"
roles = ["crash"]
kill_grace = 1
pipe_drain = 1
drain_timeout = 30

[controllers.main]
url = "{url}"
[controllers.recorder]
url = "{recorder}"

[channel]
cmds = ["main"]

[logging.db]
type = "DB"
log_dir = "{folder}/logs"
levels = []
max_db_size = {max_db_size}

[logging.ac]
type = "AC"
controllers = ["recorder"]
flush_int = 1
batch_size = 1000
levels = [2]

[stats]
interval = 5
controllers = ["main"]
{more}
"""


class Recorder:
    """Keeps the log lines it is sent; now and then it refuses, or keeps them and closes without an answer."""

    def __init__(self, chance: random.Random, trouble: float, keep: bool = True) -> None:
        """``trouble``: which part of the posts goes wrong, 0 to 1."""
        self.lines: list[dict[str, Any]] = []
        self.posts = 0
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                recorder.posts += 1
                fate = chance.random()
                if fate < trouble / 2:
                    self._answer(503)
                    return
                if keep and self.path.endswith("/log"):
                    recorder.lines += json.loads(body)
                if fate < trouble:
                    self.close_connection = True
                    return
                self._answer(200)

            def _answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "4")
                self.end_headers()
                self.wfile.write(b'"ok"')

            def log_message(self, *words: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *words: Any) -> None:
                pass  # an agent that was killed in the middle of a post

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Rig:
    """Starts, kills and asks the processes."""

    def __init__(self, folder: Path, recorder: Recorder, *, max_jobs: int, max_db_size: int, more: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.agent: subprocess.Popen[bytes] | None = None
        self.controller: subprocess.Popen[bytes] | None = None
        self.agent_starts = 0
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.config = folder / "greenagent.toml"
        self.config.write_text(
            CONFIGURATION.format(
                folder=folder,
                url=self.url,
                recorder=recorder.url,
                max_jobs=max_jobs,
                max_db_size=max_db_size,
                more=more,
            )
        )

    @property
    def pid_file(self) -> Path:
        return self.folder / "pid"

    def start_controller(self) -> None:
        """Returns at once; ``api`` tries until it answers."""
        state = str(self.folder / "state.db")
        words = ["--listen", f"127.0.0.1:{self.port}", "--state", state, "--keep-jobs", "1000000"]
        self.controller = self._popen("greenagent.cli.controller", words, "controller.log")

    def start_agent(self) -> None:
        """Returns at once."""
        self.pid_file.unlink(missing_ok=True)
        self.agent_starts += 1
        self.agent = self._popen(
            "greenagent.cli.agent", ["-c", str(self.config), "--pid-file", str(self.pid_file)], "agent.log"
        )

    def await_agent(self, timeout: float = 60) -> None:
        """Returns when the agent is ready."""
        until = time.monotonic() + timeout
        while not self.pid_file.exists():
            if self.agent is None or self.agent.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the agent does not start: {self.tail('agent.log')}")
            time.sleep(0.02)

    def _popen(self, module: str, words: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, *words],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def tail(self, log: str) -> str:
        """The end of what a process said."""
        return (self.folder / log).read_text(errors="replace")[-2000:]

    def said(self, log: str) -> str:
        return (self.folder / log).read_text(errors="replace")

    def api(self, path: str, posted: Any = None, timeout: float = 60) -> tuple[int, Any]:
        """(status, answer) of the controller; tries again while it is away, for ``timeout`` seconds."""
        until = time.monotonic() + timeout
        data = None if posted is None else json.dumps(posted).encode()
        while True:
            request = urllib.request.Request(f"{self.url}/api/{path}", data, {"Content-Type": "application/json"})
            try:
                with self._opener.open(request, timeout=30) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                body = error.read()
                if error.code < 500 or time.monotonic() > until:
                    return error.code, body.decode("utf-8", "replace")
            except (OSError, ValueError, urllib.error.URLError) as error:
                if time.monotonic() > until:
                    raise RuntimeError(f"the controller does not answer: {error}") from error
            time.sleep(0.02)

    def submit(self, command: dict[str, Any], timeout: float = 60) -> bool:
        """Pushes a command; 409 means that an earlier try got through. False when it was refused."""
        status, _ = self.api("jobs", {"gid": GID, "nid": NID, "wait_for_agent": 3600, **command}, timeout)
        return status in (202, 409)

    def job(self, job_id: str, timeout: float = 60) -> dict[str, Any]:
        """What the controller knows of a job."""
        status, answer = self.api(f"jobs/{quote(job_id, safe='')}", timeout=timeout)
        if status != 200:
            raise RuntimeError(f"job {job_id}: the controller answers {status}: {answer}")
        known: dict[str, Any] = answer
        return known

    def end(self, process: subprocess.Popen[bytes] | None, timeout: float = 90) -> int | None:
        """SIGTERM and wait; the exit code."""
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None

    def close(self) -> None:
        """Leaves no process behind."""
        for process in (self.agent, self.controller):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def shell(job_id: str, script: str, **arguments: Any) -> dict[str, Any]:
    """A command that runs a shell script."""
    return {"id": job_id, "cmd": "execute", "args": {"name": "sh", "args": ["-c", script], **arguments}}


def tagged_processes(instance: str) -> dict[int, str]:
    """Pid and tag of every process that carries a tag of this agent."""
    found = {}
    needle = f"GREENAGENT_JOB={instance}:".encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            environment = Path(f"/proc/{entry}/environ").read_bytes()
        except OSError:
            continue
        for item in environment.split(b"\0"):
            if item.startswith(needle):
                found[int(entry)] = item.decode("utf-8", "replace")
    return found


def free_port() -> int:
    """A port nobody listens on: below those that the system gives to whoever asks for any."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.SystemRandom().randrange(10_000, 32_000)))
            except OSError:
                continue  # somebody has it
            return int(probe.getsockname()[1])
