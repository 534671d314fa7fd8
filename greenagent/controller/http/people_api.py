"""``/api``: what people and tools use."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import falcon

from greenagent.controller.dispatch.results import EndedError, SignalNotKnownError
from greenagent.controller.dispatch.submission import KnownIdError, TooManyJobsError, parse_posted
from greenagent.controller.http.answers import show_pieces
from greenagent.controller.http.bodies import Bodies, BodyError, NoRoomError
from greenagent.controller.http.body_values import BodyTooLargeError, NotJsonError, unchanged
from greenagent.controller.http.job_list import SORTS, JobQuestion
from greenagent.controller.json_parts import json_list, json_object
from greenagent.controller.model import IDENTITY_DIGITS, AgentKey, Job
from greenagent.controller.services import Services
from greenagent.controller.state.open_texts import OpenText
from greenagent.controller.state.scripts import Script
from greenagent.runtime.greenlets import give_way
from greenagent.values import states
from greenagent.values.errors import CommandError, SignalError, StateNameError
from greenagent.values.signals import parse_signal
from greenagent.values.text import beginnings

MAX_WAIT: Final = 300.0
MAX_LISTED: Final = 1000
_END_OF_TIME: Final = 1e15
MAX_LINES: Final = 5000

Refusals = dict[type[Exception], Callable[..., falcon.HTTPError]]
"""What an error of a request is answered with; its text is the answer's."""

ROUTES: Final = {
    "/api/jobs": "jobs",
    "/api/jobs/{job_id}": "job",
    "/api/jobs/{job_id}/kill": "kill",
    "/api/jobs/{job_id}/logs": "logs",
    "/api/agents": "agents",
    "/api/stats": "stats",
    "/api/scripts": "scripts",
}
"""Each path with the ending of the methods that serve it."""

REFUSALS: Final[Refusals] = {
    CommandError: falcon.HTTPBadRequest,
    SignalError: falcon.HTTPBadRequest,
    StateNameError: falcon.HTTPBadRequest,
    BodyError: falcon.HTTPBadRequest,
    NotJsonError: falcon.HTTPBadRequest,
    BodyTooLargeError: falcon.HTTPContentTooLarge,
    KnownIdError: falcon.HTTPConflict,
    EndedError: falcon.HTTPConflict,
    SignalNotKnownError: falcon.HTTPConflict,
    TooManyJobsError: falcon.HTTPServiceUnavailable,
    NoRoomError: falcon.HTTPServiceUnavailable,
}


def add_people_routes(app: falcon.App[Any, Any], services: Services, bodies: Bodies) -> None:
    add_routes(app, PeopleApi(services, bodies), ROUTES, REFUSALS)


def add_routes(app: falcon.App[Any, Any], api: object, routes: Mapping[str, str], refusals: Refusals) -> None:
    """``routes``: each path with the ending of the methods of ``api`` that serve it."""

    def refuse(req: falcon.Request, resp: falcon.Response, error: Exception, params: Any) -> None:
        raise refusals[type(error)](description=str(error)) from error

    for path, name in routes.items():
        app.add_route(path, api, suffix=name)
    app.add_error_handler(tuple(refusals), refuse)


class PeopleApi:
    """A method for each endpoint and verb."""

    def __init__(self, services: Services, bodies: Bodies) -> None:
        self._services = services
        self._bodies = bodies

    def on_post_jobs(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A command object."""
        posted = self._bodies.read(req, self._services.limits.job_body, parse_posted)
        job = self._services.submission.submit(posted)
        agents = [one.agent.to_wire() for one in job.assignments if one.agent is not None and one.received == 0]
        resp.status = falcon.HTTP_202
        shown = {"id": job.id, "agents": agents, "warnings": posted.warnings}
        if posted.target.fanout:
            away = self._services.agents.away(posted.target)[:MAX_LISTED]
            shown["away"] = [{**one.key.to_wire(), "last_contact": one.last_contact or None} for one in away]
        _show(resp, shown)

    def on_get_jobs(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The list of jobs."""
        limit = int(_float(req, "limit", MAX_LISTED))
        if limit < 1:
            raise falcon.HTTPBadRequest(description="'limit' must be a positive number")
        sort = req.get_param("sort") or ""
        if sort and sort not in SORTS:
            raise falcon.HTTPBadRequest(description=f"'sort' is one of {', '.join(SORTS)}")
        asked = JobQuestion(
            states=states.read_states(",".join(req.get_param_as_list("state") or ()), states.ASKED_FOR),
            agent=_agent(req.get_param("agent")),
            since=_float(req, "since", 0.0),
            until=_float(req, "until", _END_OF_TIME),
            begins=req.get_param("begins") or "",
            kills=req.get_param("kills") != "0",
            schedule=req.get_param("schedule") or "",
            sort=sort,
            limit=min(limit, MAX_LISTED),
        )
        least = int(_float(req, "short", 0))
        found = asked.find(self._services.jobs.newest())
        short = beginnings((job.id for job in found), self._ids(), least) if least else {}
        shown = (job.summary(silent=self._silent(job), **_short_id(short.get(job.id))) for job in found)
        show_pieces(resp, json_object({}, jobs=json_list(shown)))

    def _silent(self, job: Job) -> Iterator[str]:
        """The agents that have a job and are away, or have said that they stop, as parts of a JSON text."""
        having = (one.agent for one in job.assignments if one.state == states.RUNNING and one.agent is not None)
        return json_list(json.dumps(key.to_wire()) for key in having if not self._services.agents.answers(key))

    def _ids(self) -> Iterator[str]:
        """Of all jobs; others have their turn meanwhile."""
        for job_id in self._services.jobs.ids():
            give_way()
            yield job_id

    def on_get_job(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        """One job, waiting until all of its results are terminal."""
        job = self._job(job_id)
        deadline = time.monotonic() + max(0.0, min(_float(req, "wait", 0.0), MAX_WAIT))
        while not job.answered and (left := deadline - time.monotonic()) > 0:
            job.changes.wait(left, job.seen)
            job = self._job(job_id)  # it may have been forgotten meanwhile
        show_pieces(resp, job.full())

    def on_post_kill(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        """Ends a job, or sends it a signal."""
        posted = self._read(req, self._services.limits.event_body, empty={})
        signal = posted.get("signal") if isinstance(posted, dict) else False
        if signal is not None:
            parse_signal(signal)
        job = self._job(job_id)
        kills = [{**key.to_wire(), "id": order} for key, order in self._services.results.kill(job, signal)]
        resp.status = falcon.HTTP_202
        _show(resp, {"id": job.id, "state": job.state, "kills": kills})

    def on_get_logs(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        """The lines of a job that agents have uploaded."""
        job_id = _id(job_id)
        store = self._services.lines
        after = int(_float(req, "after", 0))
        limit = max(1, min(int(_float(req, "limit", MAX_LISTED)), MAX_LINES))
        follow = (req.get_param("follow") or "") not in ("", "0", "false")
        deadline = time.monotonic() + max(0.0, min(_float(req, "wait", 30.0 if follow else 0.0), MAX_WAIT))
        if (req.get_param("run") or store.run) != store.run:
            after = 0  # a number from before the controller was started again
        job = None if store.knows(job_id) and self._services.jobs.get(job_id) is None else self._job(job_id)
        seen = req.get_param("open")
        lines, dropped = store.read(job_id, after, limit, _agents_of(job))
        open_texts, mark = self._open_texts(job)
        while follow and not lines and seen in (None, mark) and (left := deadline - time.monotonic()) > 0:
            if job is None or job.finished:
                break
            job.changes.wait(left, job.seen)
            job = self._services.jobs.get(job_id) or job
            lines, dropped = store.read(job_id, after, limit, _agents_of(job))
            open_texts, mark = self._open_texts(job)
        shown: dict[str, Any] = {
            "id": job_id,
            "next": lines[-1].number if lines else after,
            "dropped": dropped,
            "open_mark": mark,
            "finished": job is None or bool(job.finished),
            "run": store.run,
        }
        lines_shown = json_list(line.to_json() for line in lines)
        show_pieces(resp, json_object(shown, lines=lines_shown, open=json_list(one.to_json() for one in open_texts)))

    def on_get_agents(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The agents, or the one of that identity if it is known."""
        shown = self._services.dispatcher.describe_agents(_agent(req.get_param("agent")))
        show_pieces(resp, json_object({}, agents=shown))

    def on_get_stats(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The newest statistics of every agent."""
        show_pieces(resp, json_object({}, agents=self._services.metrics.describe()))

    def on_post_scripts(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A script, ``{"content": TEXT}``; answers its hash."""
        posted = self._read(req, self._services.limits.script_body)
        content = posted.get("content") if isinstance(posted, dict) else None
        if not isinstance(content, str) or not content:
            raise falcon.HTTPBadRequest(description="a script is posted as an object with 'content', its text")
        resp.status = falcon.HTTP_201
        _show(resp, {"hash": self._services.scripts.store(Script.of(content))})

    def _open_texts(self, job: Job | None) -> tuple[list[OpenText], str]:
        """What the job has begun to print where it runs, and a text that changes with it."""
        if job is None:
            return [], "0"
        agents = [one.agent for one in job.assignments if one.agent is not None and not one.ended]
        found = self._services.open_texts.of(job.id, agents)
        shown = tuple((one.key, one.stream, one.record) for one in found)
        return found, f"{hash(shown) & 0xFFFFFFFF:x}" if found else "0"

    def _read(self, req: falcon.Request, limit: int, empty: Any = None) -> Any:
        return self._bodies.read(req, limit, unchanged, empty)

    def _job(self, segment: str) -> Job:
        job = self._services.jobs.get(_id(segment))
        if job is None:
            raise falcon.HTTPNotFound(description=f"no job with the id {segment!r} is known, or no longer")
        return job


def _agents_of(job: Job | None) -> set[AgentKey | None] | None:
    """Those whose lines of a job are shown: lines that another agent uploads in its name are none of its own."""
    return None if job is None else {one.agent for one in job.assignments}


def _show(resp: falcon.Response, value: dict[str, Any]) -> None:
    resp.text = json.dumps(value)


def _id(segment: str) -> str:
    """The id in a path: the server hands ``%2F`` through as a character that no id can hold."""
    return segment.replace("\x1f", "/")


def _short_id(short: str | None) -> dict[str, list[str]]:
    return {} if short is None else {"short": [json.dumps(short)]}


def _agent(text: str | None) -> AgentKey | None:
    if text is None:
        return None
    gid, _, nid = text.partition(":")
    if not all(part.isascii() and part.isdigit() and len(part) <= IDENTITY_DIGITS for part in (gid, nid)):
        raise falcon.HTTPBadRequest(description="'agent' is written GID:NID")
    return AgentKey(int(gid), int(nid))


def _float(req: falcon.Request, name: str, default: float) -> float:
    text = req.get_param(name)
    try:
        value = float(text) if text else default
        if abs(value) < 2**53:
            return value
    except ValueError:
        pass
    raise falcon.HTTPBadRequest(description=f"'{name}' must be a number")
