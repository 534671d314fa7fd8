"""``/api``: what people and tools use."""

from __future__ import annotations

import json
import time
from typing import Any

import falcon

from greenagent.controller.bodies import BodyError, BodyTooLargeError, decode, read_body
from greenagent.controller.jobs import IDENTITY_DIGITS, AgentKey, Job
from greenagent.controller.outcomes import EndedError, is_kill_order
from greenagent.controller.parts import Parts
from greenagent.controller.submission import KnownIdError, TooManyJobsError
from greenagent.values import states
from greenagent.values.errors import CommandError, SignalError
from greenagent.values.signals import parse_signal

MAX_WAIT = 300.0
MAX_LISTED = 1000
MAX_LINES = 5000


def add_people_routes(app: falcon.App[Any, Any], parts: Parts) -> None:
    """Adds the routes below ``/api``."""
    app.add_route("/api/jobs", JobsResource(parts))
    app.add_route("/api/jobs/{job_id}", JobResource(parts))
    app.add_route("/api/jobs/{job_id}/kill", KillResource(parts))
    app.add_route("/api/jobs/{job_id}/logs", LogsResource(parts))
    app.add_route("/api/agents", AgentsResource(parts))
    app.add_route("/api/stats", StatsResource(parts))
    app.add_route("/api/scripts", ScriptsResource(parts))


class JobsResource:
    """POST a command object; GET the list of jobs."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        posted = _posted(req, self._parts.limits.job_body)
        try:
            job = self._parts.submission.submit(posted)
        except CommandError as error:
            raise falcon.HTTPBadRequest(description=error.reason) from error
        except KnownIdError as error:
            raise falcon.HTTPConflict(description=str(error)) from error
        except TooManyJobsError as error:
            raise falcon.HTTPServiceUnavailable(description=str(error)) from error
        resp.status = falcon.HTTP_202
        agents = [one.agent for one in job.assignments if one.agent is not None and one.count == 0]
        _show(resp, {"id": job.id, "agents": [{"gid": key.gid, "nid": key.nid} for key in agents]})

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        state = _state(req.get_param("state"))
        agent = _agent(req.get_param("agent"))
        since = _float(req, "since", 0.0)
        limit = int(_float(req, "limit", MAX_LISTED))
        if limit < 1:
            raise falcon.HTTPBadRequest(description="'limit' must be a positive number")
        hides_kills = req.get_param("kills") == "0"
        found: list[Job] = []
        for job in reversed(self._parts.book.all()):
            if len(found) >= min(limit, MAX_LISTED):
                break
            if job.created < since or (state and job.state != state) or (hides_kills and is_kill_order(job)):
                continue
            if agent is not None and all(one.agent != agent for one in job.assignments):
                continue
            found.append(job)
        _show(resp, {"jobs": [job.summary() for job in found]})


class JobResource:
    """GET one job, waiting until all of its results are terminal."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        job = _job(self._parts, job_id)
        deadline = time.monotonic() + max(0.0, min(_float(req, "wait", 0.0), MAX_WAIT))
        while not job.answered and (left := deadline - time.monotonic()) > 0:
            job.wait_change(left)
        _show(resp, job.full())


class KillResource:
    """POST to end a job."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def on_post(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        posted = _posted(req, self._parts.limits.event_body, empty={})
        signal = posted.get("signal") if isinstance(posted, dict) else False
        try:
            if signal is not None:
                parse_signal(signal)
        except SignalError as error:
            raise falcon.HTTPBadRequest(description=str(error)) from error
        job = _job(self._parts, job_id)
        try:
            sent = self._parts.outcomes.kill(job, signal)
        except EndedError as error:
            raise falcon.HTTPConflict(description=str(error)) from error
        resp.status = falcon.HTTP_202
        kills = [{"gid": key.gid, "nid": key.nid, "id": kill_id} for key, kill_id in sent]
        _show(resp, {"id": job.id, "state": job.state, "kills": kills})


class LogsResource:
    """GET the lines of a job that agents have uploaded."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        job_id = _id(job_id)
        after = int(_float(req, "after", 0))
        limit = max(1, min(int(_float(req, "limit", MAX_LISTED)), MAX_LINES))
        follow = (req.get_param("follow") or "") not in ("", "0", "false")
        deadline = time.monotonic() + max(0.0, min(_float(req, "wait", 30.0 if follow else 0.0), MAX_WAIT))
        if (req.get_param("run") or self._parts.lines.run) != self._parts.lines.run:
            after = 0  # a number from before the controller was started again
        lines, dropped = self._parts.lines.read(job_id, after, limit)
        job = self._parts.book.get(job_id)
        if job is None and not self._parts.lines.knows(job_id):
            _job(self._parts, job_id)
        while follow and not lines and (left := deadline - time.monotonic()) > 0:
            if job is None or job.finished:
                break
            self._parts.lines.wait(job_id, left)
            lines, dropped = self._parts.lines.read(job_id, after, limit)
        shown: dict[str, Any] = {
            "id": job_id,
            "lines": [line.to_wire() for line in lines],
            "next": lines[-1].number if lines else after,
            "dropped": dropped,
            "finished": job is None or bool(job.finished),
            "run": self._parts.lines.run,
        }
        _show(resp, shown)


class AgentsResource:
    """GET the agents."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        _show(resp, {"agents": self._parts.agents.describe()})


class StatsResource:
    """GET the newest figures of every agent."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        _show(resp, {"agents": self._parts.figures.describe()})


class ScriptsResource:
    """POST a script, ``{"content": TEXT}``; answers its hash."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        posted = _posted(req, self._parts.limits.script_body)
        content = posted.get("content") if isinstance(posted, dict) else None
        if not isinstance(content, str) or not content:
            raise falcon.HTTPBadRequest(description="a script is posted as an object with 'content', its text")
        resp.status = falcon.HTTP_201
        _show(resp, {"hash": self._parts.scripts.store(content)})


def _posted(req: falcon.Request, limit: int, empty: Any = None) -> Any:
    try:
        body = read_body(req, limit)
        if not body and empty is not None:
            return empty
        return decode(body)
    except BodyTooLargeError as error:
        raise falcon.HTTPContentTooLarge(description=f"the body is larger than {limit} bytes") from error
    except BodyError as error:
        raise falcon.HTTPBadRequest(description="the body did not come as announced") from error
    except ValueError as error:
        raise falcon.HTTPBadRequest(description=f"the body is not JSON: {error}") from error


def _show(resp: falcon.Response, value: dict[str, Any]) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.text = json.dumps(value)


def _id(segment: str) -> str:
    """The id in a path: the server hands ``%2F`` through as a character that no id can hold."""
    return segment.replace("\x1f", "/")


def _job(parts: Parts, job_id: str) -> Job:
    job = parts.book.get(_id(job_id))
    if job is None:
        raise falcon.HTTPNotFound(description=f"no job with the id {job_id!r} is known, or no longer")
    return job


def _agent(text: str | None) -> AgentKey | None:
    if text is None:
        return None
    gid, _, nid = text.partition(":")
    if not all(part.isascii() and part.isdigit() and len(part) <= IDENTITY_DIGITS for part in (gid, nid)):
        raise falcon.HTTPBadRequest(description="'agent' is written GID:NID")
    return AgentKey(int(gid), int(nid))


def _state(text: str | None) -> str:
    state = (text or "").upper()
    known = sorted(states.PLACEHOLDERS | states.TERMINAL)
    if state and state not in known:
        raise falcon.HTTPBadRequest(description=f"there is no state {text!r}; it is one of {', '.join(known)}")
    return state


def _float(req: falcon.Request, name: str, default: float) -> float:
    text = req.get_param(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise falcon.HTTPBadRequest(description=f"'{name}' must be a number") from error
    if not abs(value) < 2**53:
        raise falcon.HTTPBadRequest(description=f"'{name}' must be a number")
    return value
