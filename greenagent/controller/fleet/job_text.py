"""Jobs and their assignments as they lie in Redis: a hash for each job.

``meta`` is what never changes, ``a<number>`` each assignment, ``r<number>.<serial>`` its kept results,
``i<gid>:<nid>`` the number of the assignment that an agent was given, ``w<number>`` what its agent says of waiting,
``open`` how many have not ended. Moments are wall stamps: the steady clock of one process says nothing to another.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from greenagent.controller.fleet.connection import compact
from greenagent.controller.model import AgentKey, Assignment, Brief, Changes, Job, Result, Target, end_of
from greenagent.runtime.clock import monotonic_epoch


def wall(moment: float) -> float:
    """What the wall clock shows at a moment of ``monotonic_epoch``; 0 stays 0."""
    return moment + time.time() - monotonic_epoch() if moment else 0.0


def steady(stamp: float) -> float:
    """The other way round."""
    return stamp - time.time() + monotonic_epoch() if stamp else 0.0


def fields_of_job(job: Job) -> dict[str, Any]:
    """All but the assignments and their results."""
    meta = {"seq": job.seq, "id": job.id, "command": job.command, "created": job.created, "adopted": job.adopted}
    return {
        "meta": compact(meta),
        "wait_until": wall(job.wait_until),
        "finished": wall(job.finished),
        "away": compact(job.away),
        "open": sum(not one.ended for one in job.assignments),
    }


def job_of(fields: Mapping[str, str], changes: Changes, seen: int) -> Job:
    """Without its assignments. Raises ValueError, KeyError and TypeError for what is none."""
    meta = json.loads(fields["meta"])
    command = json.loads(meta["command"])
    return Job(
        meta["seq"],
        meta["id"],
        meta["command"],
        Brief.of(command),
        Target.of(command),
        meta["created"],
        wall_offset=time.time() - monotonic_epoch(),
        wait_until=steady(float(fields.get("wait_until") or 0)),
        finished=steady(float(fields.get("finished") or 0)),
        adopted=meta["adopted"],
        away=[AgentKey(*one) for one in json.loads(fields.get("away") or "[]")],
        changes=changes,
        seen=seen,
    )


def text_of(assignment: Assignment) -> str:
    """What is compared where an assignment is to be changed: any other text is a change by somebody else."""
    kept = len(assignment.results)
    return compact(
        {
            "agent": assignment.agent,
            "unassigned": assignment.unassigned,
            "state": assignment.state,
            "token": assignment.token,
            "deliveries": assignment.deliveries,
            "delivered": round(wall(assignment.delivered), 3),
            "received": assignment.received,
            "kept": kept,
            "handed_to": sorted(assignment.handed_to),
            "refused": assignment.refused is not None,
            "refused_at": round(wall(assignment.refused_at), 3),
        }
    )


def assignment_of(job: Job, number: int, text: str, waits: str | None = None) -> Assignment:
    """Without its results. ``waits``: the text of ``w<number>``, if there is one."""
    value = json.loads(text)
    found = Assignment(
        job,
        number,
        None if value["agent"] is None else AgentKey(*value["agent"]),
        value["unassigned"],
        value["state"],
        value["token"],
        value["deliveries"],
        steady(value["delivered"]),
        value["received"],
        handed_to={AgentKey(*key) for key in value["handed_to"]},
        refused_at=steady(value["refused_at"]),
        stored=text,
    )
    if waits:
        until, turn = json.loads(waits)
        found.waits_until = steady(until) - monotonic_epoch() + time.monotonic() if until else 0.0
        found.turn = steady(turn)
    return found


def result_fields(number: int, text: str) -> list[str]:
    """Where the kept results of an assignment lie, oldest first, and what it was refused with, if it was."""
    value = json.loads(text)
    first = value["received"] - value["kept"] + 1
    held = [value["received"] + 1] if value["refused"] else []
    return [f"r{number}.{serial}" for serial in (*range(first, value["received"] + 1), *held)]


def put_results(assignment: Assignment, texts: Iterable[str | None]) -> None:
    """``texts``: of ``result_fields``, None where one is gone."""
    for text in texts:
        if text is not None:
            assignment.results.append(_result_of(assignment, text))
    if json.loads(assignment.stored)["refused"] and assignment.results:
        assignment.refused = assignment.results.pop()
    assignment.seen = {(result.starttime, result.state): None for result in assignment.results}


def _result_of(assignment: Assignment, text: str) -> Result:
    result, job = json.loads(text), assignment.job
    key = assignment.agent or job.target.key
    found = Result(job.id, key, result["state"], result["starttime"], text, result.get("delivered", True))
    return found._replace(time=result.get("time") or 0, **end_of(result))
