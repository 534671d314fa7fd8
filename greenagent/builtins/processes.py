"""``get_process_stats``, ``get_processes_stats``, ``get_aggregated_stats``: live figures (protocol 8.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from greenagent.builtins.call import Answer, BuiltIn, BuiltInError, Call, answer
from greenagent.values.command import Command


class Usage(NamedTuple):
    """Of a job's whole process tree now: percent of one core since the last reading, bytes, process ids."""

    cpu: float = 0.0
    rss: int = 0
    vms: int = 0
    swap: int = 0
    pids: tuple[int, ...] = ()


class LiveJob(NamedTuple):
    """A running job and what it uses; a built-in or a job between runs uses nothing."""

    command: Command
    usage: Usage


def get_process_stats(jobs: Callable[[], Iterable[LiveJob]]) -> BuiltIn:
    """``data`` is ``{"id": text}``; one entry."""

    def run(call: Call) -> Answer:
        job_id = call.data().get("id")
        if not isinstance(job_id, str) or not job_id:
            raise BuiltInError("get_process_stats needs data with the 'id' of a job")
        for job in jobs():
            if job.command.id == job_id:
                return answer(_entry(job.command.received, job.usage))
        raise BuiltInError(f"Process with id '{job_id}' doesn't exist")

    return run


def get_processes_stats(jobs: Callable[[], Iterable[LiveJob]]) -> BuiltIn:
    """``data`` is ``{"domain": text or null, "name": text or null}``; entries of the matching jobs."""

    def run(call: Call) -> Answer:
        data = call.data()
        domain, name = data.get("domain") or "", data.get("name") or ""
        return answer(
            [
                _entry(job.command.received, job.usage)
                for job in jobs()
                if domain in ("", job.command.arguments.domain) and name in ("", job.command.arguments.name)
            ]
        )

    return run


def get_aggregated_stats(jobs: Callable[[], Iterable[LiveJob]], own: Callable[[], Usage]) -> BuiltIn:
    """One entry without a command: all jobs and the agent itself."""

    def run(call: Call) -> Answer:
        usages = [own(), *(job.usage for job in jobs())]
        return answer(
            _entry(
                None,
                Usage(
                    cpu=sum(usage.cpu for usage in usages),
                    rss=sum(usage.rss for usage in usages),
                    vms=sum(usage.vms for usage in usages),
                    swap=sum(usage.swap for usage in usages),
                    pids=tuple(pid for usage in usages for pid in usage.pids),
                ),
            )
        )

    return run


def _entry(command: Mapping[str, Any] | None, usage: Usage) -> dict[str, Any]:
    return {
        "cmd": command,
        "cpu": usage.cpu,
        "rss": usage.rss,
        "vms": usage.vms,
        "swap": usage.swap,
        "debug": " ".join(str(pid) for pid in usage.pids),
    }
