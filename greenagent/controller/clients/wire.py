"""Keys and texts as the original controllers write them for their clients (protocol 12.1, both generations)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from greenagent.controller.clients.connection import Command
from greenagent.controller.model import Assignment, Result
from greenagent.values import states

KEPT_FOR: Final = 86_400
"""Seconds for which clients find what was written, from the last write on."""
JOB_LOG: Final = "joblog"


_EMPTY: Final[dict[str, Any]] = {
    "id": "",
    "gid": 0,
    "nid": 0,
    "cmd": "",
    "args": None,
    "data": "",
    "streams": None,
    "critical": "",
    "tags": "",
    "level": 0,
    "starttime": 0,
    "state": "",
    "time": 0,
}
"""The keys that clients read without asking whether they are there."""


class Generation(NamedTuple):
    """What is different between the two generations of clients."""

    queue: str
    """Where they put their commands."""
    is_first: bool


FIRST: Final = Generation("cmds_queue", True)
LATER: Final = Generation("cmds.queue", False)
GENERATIONS: Final = {one.queue: one for one in (LATER, FIRST)}


def field_of(assignment: Assignment) -> str:
    """The name of an agent's part in the hash of a job."""
    return str(assignment.agent or assignment.job.target.key)


def hash_key(job_id: str) -> str:
    return f"jobresult:{job_id}"


def queued_key(job_id: str) -> str:
    return f"cmd.{job_id}.queued"


def response(job_id: str, gid: int, nid: int, state: str, **values: Any) -> str:
    """A placeholder, or an answer of the controller itself: clients read all 13 keys."""
    now = int(time.time() * 1000)
    return json.dumps({**_EMPTY, "id": job_id, "gid": gid, "nid": nid, "starttime": now, "state": state, **values})


def text_of_result(result: Result, tags: str) -> str:
    """What an agent posted, as it came; what the controller itself answers, with all keys."""
    return result.text if result.delivered else json.dumps({**_EMPTY, "tags": tags, **json.loads(result.text)})


def text_of_placeholder(assignment: Assignment, tags: str) -> str:
    """For one that has no result yet."""
    job = assignment.job
    gid, nid = assignment.agent or job.target.key
    since = job.created if assignment.state == states.QUEUED else job.stamp(assignment.delivered)
    return response(job.id, gid, nid, assignment.state, tags=tags, starttime=round(since * 1000))


def set_field(job_id: str, field: str, text: str) -> Command:
    """What is known of a job on an agent."""
    return ("HSET", hash_key(job_id), field, text)


def push_result(generation: Generation, job_id: str, field: str, text: str) -> Iterator[Command]:
    """A final result, for who waits for it."""
    yield set_field(job_id, field, text)
    key = f"cmds_queue_{job_id}" if generation.is_first else f"cmd.{job_id}.{field.replace(':', '.')}"
    yield ("RPUSH", key, text)
    yield ("EXPIRE", key, KEPT_FOR)


def push_queued(job_id: str) -> Iterator[Command]:
    """The hash of the job has all its agents now."""
    yield ("RPUSH", queued_key(job_id), "queued")
    yield ("EXPIRE", queued_key(job_id), KEPT_FOR)
