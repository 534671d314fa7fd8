"""The real ``greenagent-controller`` and ``greenagent-ctl`` as processes of their own, and a relay in front."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import gevent
import requests
from gevent import socket
from gevent.server import StreamServer

from tests.support.ctl import ctl
from tests.support.ports import reserve_port
from tests.support.programs import ROOT, Ctl, Done
from tests.support.waiting import wait_until

_numbers = itertools.count(1)

WITH_LIMITS = """
import functools, sys
from greenagent.cli.controller import main
import greenagent.controller.limits as limits
limits.Limits = functools.partial(limits.Limits, **{limits!r})
sys.exit(main())
"""


class ControllerProcess:
    """A real ``greenagent-controller``; ``kill`` and ``start`` take it away and bring it back on its port."""

    def __init__(
        self, folder: Path, *options: str | Path, limits: Mapping[str, Any] | None = None, start: bool = True
    ) -> None:
        """``limits`` replaces times of ``greenagent.controller.limits``, which no option sets."""
        self.stderr_file = folder / f"controller{next(_numbers)}.stderr"
        self._stdout_file = self.stderr_file.with_suffix(".stdout")
        self._options = [str(option) for option in options]
        code = ["-c", WITH_LIMITS.format(limits=dict(limits))] if limits else ["-m", "greenagent.cli.controller"]
        self._program = [sys.executable, *code]
        self.port = reserve_port()
        self.url = ""
        self.authority: Path | None = None
        """What the test itself trusts when it asks a controller that serves TLS, and shows to it."""
        self.certificate: tuple[Path, Path] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        if start:
            self.start()

    def __enter__(self) -> ControllerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def launch(self) -> None:
        """Starts the process without waiting for it."""
        with self.stderr_file.open("ab") as stderr, self._stdout_file.open("wb") as stdout:
            self.process = subprocess.Popen(
                [*self._program, "--listen", f"127.0.0.1:{self.port}", *self._options],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    def start(self) -> ControllerProcess:
        """Returns when it listens, on the same port as before."""
        self.launch()
        return self.await_ready()

    def await_ready(self) -> ControllerProcess:
        """Waits for a launched process to listen."""
        wait_until(
            lambda: self._stdout_file.read_text().endswith("\n") or self.poll() is not None, 20, "the controller"
        )
        line = self._stdout_file.read_text()
        assert line.startswith("listening on "), f"{line!r} {self.stderr}"
        self.url = line.removeprefix("listening on ").strip()
        self.port = int(self.url.rpartition(":")[2])
        return self

    def poll(self) -> int | None:
        assert self.process is not None
        return self.process.poll()

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text()

    @property
    def said(self) -> list[str]:
        """The lines of its stderr, beside who may use it."""
        return [line for line in self.stderr.splitlines() if "/api has no token" not in line]

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        if self.process is None:
            return 0
        if self.poll() is None:
            os.kill(self.process.pid, number)
        return self.wait()

    def wait(self) -> int:
        """Waits for its end; returns the exit code."""
        wait_until(lambda: self.poll() is not None, 20, "the controller has ended")
        code = self.poll()
        assert code is not None
        return code

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        """``GET /api/PATH``."""
        with self._session() as session:
            answer = session.get(f"{self.url}/api/{path}", params=parameters, timeout=60)
        assert answer.status_code == 200, answer.text
        value: dict[str, Any] = answer.json()
        return value

    def post(self, command: Mapping[str, Any]) -> int:
        """Posts a command; returns the status."""
        with self._session() as session:
            return session.post(f"{self.url}/api/jobs", json=command, timeout=60).status_code

    def results(self, job_id: str, timeout: float = 20) -> list[dict[str, Any]]:
        """The results of a job, once it is finished."""
        job = wait_until(lambda: self._finished(job_id), timeout, f"the end of {job_id}")
        found: list[dict[str, Any]] = job["results"]
        return found

    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        if self.authority is not None:
            session.verify = str(self.authority)
        if self.certificate is not None:
            session.cert = (str(self.certificate[0]), str(self.certificate[1]))
        return session

    def _finished(self, job_id: str) -> dict[str, Any] | None:
        job = self.get(f"jobs/{job_id}", wait=1)
        return job if job["finished"] else None

    def live(self) -> set[str]:
        """``gid:nid`` of the agents that are live."""
        return {f"{one['gid']}:{one['nid']}" for one in self.get("agents")["agents"] if one["live"]}

    def wait_for_agents(self, *agents: str, timeout: float = 20) -> None:
        """Waits until exactly these are live."""
        wait_until(lambda: self.live() == set(agents), timeout, f"{agents} and no others to be live")

    def ctl(self, *arguments: str | Path, **options: Any) -> Done:
        """One run of ``greenagent-ctl`` against this controller, within this process; of its own with ``options``."""
        return (
            ctl(self.url, *map(str, arguments)) if not options else Ctl("--url", self.url, *arguments, **options).done()
        )

    def run(self, *arguments: str, **options: Any) -> Done:
        """``greenagent-ctl run``."""
        return self.ctl("run", *arguments, **options)


class Relay:
    """Passes TCP connections on to a port that may change, and counts them."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.connections = 0
        self.refused = 0
        """Those of them where nobody listened on the port."""
        self._open: set[Any] = set()
        self._server = StreamServer(("127.0.0.1", 0), self._handle)
        self._server.start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        port: int = self._server.server_port
        return port

    def redirect(self, target: int) -> None:
        """Connections go to another port from now on; those there are end."""
        self.target = target
        self.cut()

    def cut(self) -> None:
        for one in list(self._open):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def stop(self) -> None:
        self._server.stop(timeout=0)
        self.cut()

    def _handle(self, client: Any, address: Any) -> None:
        self.connections += 1
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=10)
        except OSError:
            client.close()
            self.refused += 1
            return
        server.settimeout(None)
        self._open |= {client, server}
        try:
            back = gevent.spawn(_pump, server, client)
            _pump(client, server)
            back.join(30)
        finally:
            self._open -= {client, server}
            client.close()
            server.close()


def _pump(source: Any, sink: Any) -> None:
    """Copies until the end, and passes the end on."""
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for one, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        try:
            one.shutdown(how)
        except OSError:
            pass
