"""A real ``redis-server`` for a test, on a port of its own, with its files in the test's folder."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import redis

from tests.conftest import needs
from tests.support.ports import reserve_port
from tests.support.waiting import wait_until


class RedisServer:
    """A running server until ``stop``; ``start`` brings it back on its port, with what it kept.

    It keeps every write before it answers, so that a kill -9 of it loses none.
    """

    def __init__(self, folder: Path, *options: str, password: str = "") -> None:
        """``options`` are further ones of ``redis-server``. Skips the test loudly where there is no such program."""
        self._program = needs("redis-server")
        self._options = (*options, "--requirepass", password)
        self.folder = folder / "redis"
        self.folder.mkdir()
        self.port = reserve_port()
        self.url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"
        self.socket = self.folder / "redis.sock"
        self.client: Any = redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=60)
        """For the test's own questions."""
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "unixsocket": self.socket,
            "dir": self.folder,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [self._program, *words, *self._options], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        wait_until(self._answers, what="redis-server to answer")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "output").read_text()
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def stop(self, number: int = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            wait_until(lambda: self._process is None or self._process.poll() is not None, what="redis-server to end")
            self._process = None
