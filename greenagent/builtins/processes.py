"""``get_process_stats``, ``get_processes_stats``, ``get_aggregated_stats``: live figures (protocol 8.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from greenagent.builtins.call import Answer, BuiltIn, BuiltInError, Call, answer
from greenagent.values.command import Command


class LiveJob(NamedTuple):
    """A live job and the figures of its whole process tree now (protocol 8.5); zeros for built-ins and between runs."""

    command: Command
    figures: Mapping[str, Any]


def get_process_stats(jobs: Callable[[], Iterable[LiveJob]]) -> BuiltIn:
    """``data`` is ``{"id": text}``; one entry."""

    def run(call: Call) -> Answer:
        job_id = call.data().get("id")
        if not isinstance(job_id, str) or not job_id:
            raise BuiltInError("get_process_stats needs data with the 'id' of a job")
        for job in jobs():
            if job.command.id == job_id:
                return answer(_entry(job))
        raise BuiltInError(f"Process with id '{job_id}' doesn't exist")

    return run


def get_processes_stats(jobs: Callable[[], Iterable[LiveJob]]) -> BuiltIn:
    """``data`` is ``{"domain": text or null, "name": text or null}``; entries of the matching jobs."""

    def run(call: Call) -> Answer:
        data = call.data()
        domain, name = data.get("domain") or "", data.get("name") or ""
        return answer(
            [
                _entry(job)
                for job in jobs()
                if domain in ("", job.command.arguments.domain) and name in ("", job.command.arguments.name)
            ]
        )

    return run


def get_aggregated_stats(total: Callable[[], Mapping[str, Any]]) -> BuiltIn:
    """One entry without a command: all jobs and the agent itself."""

    def run(call: Call) -> Answer:
        return answer({"cmd": None, **total()})

    return run


def _entry(job: LiveJob) -> dict[str, Any]:
    return {"cmd": job.command.received, **job.figures}
