"""Which job is meant: an id, or how the id of one job alone begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from greenagent.cli.ctl.client import UNKNOWN, Client, ControllerError, job_path

NAMED: Final = 10
"""So many of the jobs that may be meant are named."""

Answer = TypeVar("Answer")


def of_job(client: Client, given: str, ask: Callable[[str], Answer]) -> Answer:
    """What ``ask`` answers of the job that is meant; an id in full always wins, also of a job that is forgotten.

    ``ask`` raises ControllerError, with status 404 for an id that the controller does not know. Raises it where no
    job's id begins so either, and where several do.
    """
    try:
        return ask(given)
    except ControllerError as error:
        if error.status != UNKNOWN or _has_lines(client, given):
            raise
        if (meant := _begins(client, given)) is None:
            raise ControllerError(f"{error}; greenagent-logs on its node may tell of it", UNKNOWN) from error
    return ask(meant)


def _has_lines(client: Client, job_id: str) -> bool:
    """Whether the controller has lines of a job, which it need not know."""
    try:
        client.get(f"{job_path(job_id)}/logs", limit=1)
    except ControllerError as error:
        if error.status != UNKNOWN:
            raise
        return False
    return True


def _begins(client: Client, given: str) -> str | None:
    """The one id that begins so. Commands to kill count where nothing else does: nobody gave them their ids."""
    for kills in (0, 1):
        found = client.get("jobs", begins=given, kills=kills, limit=NAMED + 1)["jobs"]
        ids = sorted(str(job["id"]) for job in found)
        if not all(one.startswith(given) for one in ids):
            return None  # a controller of an earlier version answers any
        if len(ids) > 1:
            more = " and more" if len(ids) > NAMED else ""
            raise ControllerError(f"several jobs begin with {given}: {', '.join(ids[:NAMED])}{more}", UNKNOWN)
        if ids:
            return ids[0]
    return None
