"""Results that the controller itself gives, where no agent does."""

from __future__ import annotations

import json
import time

from greenagent.controller.model import Assignment, Job, Result, end_of
from greenagent.runtime.clock import monotonic_epoch
from greenagent.values import states


def synthetic_result(assignment: Assignment, state: str, data: str, level: int = 0) -> Result:
    """A result the controller itself gives; ``delivered`` false says that no agent answered."""
    job = assignment.job
    key = assignment.agent or job.target.key
    brief = job.brief
    starttime = int(time.time() * 1000)
    result = {
        "id": job.id,
        **key.to_wire(),
        "cmd": brief.cmd,
        "args": {name: text for name, text in (("name", brief.name), ("domain", brief.domain)) if text},
        "data": data,
        "level": level,
        "state": state,
        "starttime": starttime,
        "time": 0,
        "delivered": False,
    }
    return Result(job.id, key, state, starttime, json.dumps(result), False, brief.cmd, **end_of(result))


def end_at_once(job: Job, state: str, data: str, level: int = 0) -> None:
    """Ends a job that is not stored yet with a result of its own."""
    [assignment] = job.assignments = job.assign([job.target.key], state=state, received=1)
    assignment.results.append(synthetic_result(assignment, state, data, level))
    job.finished = monotonic_epoch()


def expired_result(assignment: Assignment) -> Result:
    """What ends one that no agent has started in time."""
    text = f"expired: not started within {assignment.job.brief.expires:g} s"
    return synthetic_result(assignment, states.ERROR, text)
