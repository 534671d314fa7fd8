"""``get_process_stats``, ``get_processes_stats``, ``get_aggregated_stats``: live usage (protocol 8.5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from greenagent.builtins.registry import BuiltInError, Call, Context, answer, command, list_answer, text_of
from greenagent.jobs.commands import Answer
from greenagent.values.command import Command

MAX_LENGTH: Final = 4096
"""Characters of a text, list or object of a command beyond which the usage of its job leaves it out."""
MAX_MEMBERS: Final = 100
"""Members of a command, and of its run arguments, that its usage repeats."""


class LiveJob(NamedTuple):
    """A live job and the usage of its whole process tree now (protocol 8.5); zeros for built-ins and between runs."""

    command: Command
    usage: Mapping[str, Any]
    gid: int = 0
    nid: int = 0
    """The agent's own, for a command that came by its role and names none."""


@command("get_process_stats")
def get_process_stats(call: Call) -> Answer:
    """``data`` is ``{"id": text}``; one entry."""
    return usage_of_one(_live_jobs(call.agent), call.data())


@command("get_processes_stats")
def get_processes_stats(call: Call) -> Answer:
    """``data`` is ``{"domain": text or null, "name": text or null}``; entries of the matching jobs."""
    return usage_of_matching(_live_jobs(call.agent), call.data())


@command("get_aggregated_stats")
def get_aggregated_stats(call: Call) -> Answer:
    """One entry without a command: all jobs and the agent itself."""
    return answer({"cmd": None, **call.agent.meter.total().to_wire()})


def usage_of_one(jobs: Iterable[LiveJob], data: Mapping[str, Any]) -> Answer:
    job_id = text_of(data, "id")
    if job_id is None:
        raise BuiltInError("get_process_stats needs data with the 'id' of a job")
    for job in jobs:
        if job.command.id == job_id:
            return answer(_entry(job))
    raise BuiltInError(f"Process with id '{job_id}' doesn't exist")


def usage_of_matching(jobs: Iterable[LiveJob], data: Mapping[str, Any]) -> Answer:
    domain, name = text_of(data, "domain"), text_of(data, "name")
    return list_answer(
        _entry(job)
        for job in jobs
        if domain in (None, job.command.arguments.domain) and name in (None, job.command.arguments.name)
    )


def _live_jobs(agent: Context) -> Iterator[LiveJob]:
    main = agent.settings().main
    for job in list(agent.admission.live.values()):
        yield LiveJob(job.command, agent.meter.usage(job.id).to_wire(), main.gid, main.nid)


def _entry(job: LiveJob) -> dict[str, Any]:
    # Without what is long: that many jobs wait with much data must not make an answer of any size.
    arguments = job.command.received.get("args")
    shown = _short(job.command.received, "args" if arguments else "")
    if arguments:
        shown["args"] = _short(arguments)
        environment = shown["args"].get("env")  # passwords are given there, and whoever may ask
        if isinstance(environment, dict):
            shown["args"]["env"] = dict.fromkeys(environment, "***")
        elif isinstance(environment, list):
            shown["args"]["env"] = [f"{str(text).partition('=')[0]}=***" for text in environment]
    for key, own in (("gid", job.gid), ("nid", job.nid)):
        if own and not shown.get(key):
            shown[key] = own
    return {"cmd": shown, **job.usage}


def _short(received: Mapping[str, Any], left_out: str = "") -> dict[str, Any]:
    members = islice(received.items(), MAX_MEMBERS)
    return {key: value for key, value in members if key != left_out and _is_short(value)}


def _is_short(value: Any) -> bool:
    """Whether a JSON value has no more than MAX_LENGTH characters, about; it is looked at no further than that."""
    room = MAX_LENGTH
    waiting = [value]
    while waiting and room >= 0:
        item = waiting.pop()
        room -= len(item) if isinstance(item, (str, list, dict)) else len(str(item))
        if room >= 0 and isinstance(item, (list, dict)):
            waiting.extend(item)
            if isinstance(item, dict):
                waiting.extend(item.values())
    return room >= 0
