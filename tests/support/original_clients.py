"""What the original clients of both generations say to their Redis, and how they read it (protocol 12.6)."""

from __future__ import annotations

import json
import uuid
from typing import Any

from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

KEYS = frozenset(
    ("id", "gid", "nid", "cmd", "args", "data", "streams", "critical", "tags", "level", "starttime", "state", "time")
)
"""Those of every placeholder and result of the later generation."""


class Client:
    """The later generation (Python, 2016)."""

    queue = "cmds.queue"

    def __init__(self, server: RedisServer) -> None:
        self.redis = server.client

    def command(self, **values: Any) -> dict[str, Any]:
        made = {"id": str(uuid.uuid4()), "gid": 1, "nid": 10, "tags": None, "roles": None, "fanout": False}
        return {**made, "cmd": "execute", "args": {"loglevels": "*"}, "data": "", **values}

    def send(self, **values: Any) -> str:
        """Sends a command; returns its id."""
        command = self.command(**values)
        self.redis.rpush(self.queue, json.dumps(command))
        return str(command["id"])

    def await_queued(self, job_id: str) -> dict[str, dict[str, Any]]:
        """The hash of the job, as soon as the controller says that it is complete."""
        key = f"cmd.{job_id}.queued"
        wait_until(lambda: self.redis.rpoplpush(key, key), what=f"{job_id} to be queued")
        return self.hash(job_id)

    def hash(self, job_id: str) -> dict[str, dict[str, Any]]:
        found = self.redis.hgetall(f"jobresult:{job_id}")
        return {field: json.loads(text) for field, text in found.items()}

    def result(self, job_id: str, agent: str = "1.10") -> dict[str, Any]:
        """The newest final result; it stays where it is."""
        key = f"cmd.{job_id}.{agent}"
        text = wait_until(lambda: self.redis.rpoplpush(key, key), what=f"the result of {job_id}")
        found: dict[str, Any] = json.loads(text)
        return found


class FirstClient(Client):
    """The first generation (Python, September 2015)."""

    queue = "cmds_queue"

    def command(self, **values: Any) -> dict[str, Any]:
        made = {"id": str(uuid.uuid4()), "gid": 1, "nid": 10, "role": None, "fanout": False}
        return {**made, "cmd": "execute", "args": {"loglevels": "*"}, "data": "", **values}

    def result(self, job_id: str, agent: str = "") -> dict[str, Any]:
        """The next final result, of whatever agent; it is gone then."""
        text = wait_until(lambda: self.redis.lpop(f"cmds_queue_{job_id}"), what=f"the result of {job_id}")
        found: dict[str, Any] = json.loads(text)
        return found
