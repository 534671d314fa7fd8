"""The endpoints agents use, with the original's answers (protocol 1.2)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn

import falcon

from greenagent.controller.dispatch.agents import Poll
from greenagent.controller.dispatch.dispatcher import Delivery
from greenagent.controller.dispatch.results import (
    NotItsJobError,
    Refused,
    ResultError,
    TooLargeResultError,
    parse_result,
    parse_results,
)
from greenagent.controller.http.access import AgentResource
from greenagent.controller.http.bodies import (
    RETRY_AFTER,
    Bodies,
    BodyError,
    NoRoomError,
)
from greenagent.controller.http.body_values import BodyTooLargeError, NotJsonError, unchanged
from greenagent.controller.http.disconnects import DisconnectWatch
from greenagent.controller.http.server import PARKED, UNWRITTEN
from greenagent.controller.model import IDENTITY_DIGITS, MAX_ROLES, AgentKey, Result
from greenagent.controller.services import Services
from greenagent.controller.state.log_lines import parse_records
from greenagent.controller.state.metrics import parse_points
from greenagent.controller.state.open_texts import parse_open_texts
from greenagent.controller.state.state_file import StateError
from greenagent.values import levels

ACKNOWLEDGE: Final = "Greenagent-Acknowledge"
COMMANDS: Final = "Greenagent-Commands"
DELIVERY: Final = "Greenagent-Delivery"
FREE_SLOTS: Final = "Greenagent-Free-Slots"
OPEN_TEXT: Final = "Greenagent-Open-Text"
WAITING: Final = "Greenagent-Waiting"
RESULTS: Final = "Greenagent-Results"
TAKEN: Final = ((OPEN_TEXT, "1"), (WAITING, "1"), (RESULTS, "1"))
"""What this controller takes from agents of ours."""
ENDPOINTS: Final = ("cmd", "result", "results", "log", "open_text", "waiting", "stats", "event", "script", "ping")
"""Below ``/<gid>/<nid>/``."""
MAX_COMMANDS: Final = 100
"""In one answer."""
_OK: Final = '"ok"'
_SLOTS: Final = re.compile("-?[0-9]{1,9}")


def add_agent_routes(app: falcon.App[Any, Any], services: Services, watch: DisconnectWatch, bodies: Bodies) -> None:
    api = AgentApi(services, watch, bodies)
    for name in ENDPOINTS:
        app.add_route(f"/{{gid}}/{{nid}}/{name}", api, suffix=name)


class AgentApi(AgentResource):
    """A method for each endpoint."""

    def __init__(self, services: Services, watch: DisconnectWatch, bodies: Bodies) -> None:
        self._services = services
        self._watch = watch
        self._bodies = bodies
        self._refusals = services.log.rate_limited()

    def on_get_cmd(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        """The long poll."""
        dispatcher = self._services.dispatcher
        poll = self._poll(req, _key(gid, nid))
        descriptor: int = req.env["greenagent.descriptor"]
        tokens = {token.strip() for token in (req.get_header(ACKNOWLEDGE) or "").split(",")} - {""}
        self._watch.add(descriptor, poll.hang_up)
        try:
            delivery = dispatcher.begin(poll, tokens)
        finally:
            if not poll.is_parked:
                self._watch.remove(descriptor)
        if poll.is_parked:
            req.env[PARKED] = ParkedPoll(self._services, self._watch, poll, descriptor)
            return
        headers, resp.data = _answer(delivery)
        resp.set_headers(headers)
        if delivery is not None:
            req.env[UNWRITTEN] = partial(dispatcher.take_back, delivery)

    def _poll(self, req: falcon.Request, key: AgentKey) -> Poll:
        return Poll(
            key=key,
            roles=tuple(dict.fromkeys(req.get_param_as_list("role") or ()))[:MAX_ROLES],
            slots=_slots(req.get_header(FREE_SLOTS)),
            commands=min(_slots(req.get_header(COMMANDS)) or 0, MAX_COMMANDS),
            acknowledges=req.get_header(ACKNOWLEDGE) is not None,
            version=_version(req.user_agent),
            look=self._watch.look,
        )

    def on_post_result(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        """One result object."""
        key = _key(gid, nid)
        try:
            result = self._received(req, self._services.limits.result_body, "json error", partial(parse_result, key))
        except ResultError as error:
            self._say_refused(key, str(error))
            _refuse("json error")
        self._note_slots(req, key)
        self._take(result)
        resp.text = _OK

    def on_post_results(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        """A list of result objects, each of them judged by itself: the answer names those that are refused, and why."""
        key = _key(gid, nid)
        parsed = self._received(req, self._services.limits.result_body, "json error", partial(parse_results, key))
        if parsed is None:
            _refuse("json error")
        self._note_slots(req, key)
        refused = []
        for index, one in enumerate(parsed):
            if isinstance(one, Refused):
                self._say_refused(key, one.reason)
                refused.append({"index": index, **one._asdict()})
                continue
            try:
                self._take(one)
            except StateError as error:
                self._services.log.error(str(error))
                refused.append({"index": index, "status": 503, "reason": str(error)})
        resp.text = json.dumps({"refused": refused})

    def _note_slots(self, req: falcon.Request, key: AgentKey) -> None:
        agent, slots = self._services.agents.contact(key), _slots(req.get_header(FREE_SLOTS))
        agent.slots = agent.slots if slots is None else slots

    def _take(self, result: Result) -> None:
        try:
            self._services.results.take(result)
        except NotItsJobError as error:
            self._refusals.log(levels.WARNING, f"{error}: it does not count")

    def _say_refused(self, key: AgentKey, reason: str) -> None:
        self._refusals.log(levels.WARNING, f"agent {key} posted a result that was refused: {reason}")

    def on_post_log(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        """A list of messages, kept or refused as a whole."""
        records = self._received(req, self._services.limits.log_body, "error", parse_records)
        if records is None:
            _refuse("error")
        key = self._heard_of(gid, nid)
        touched = self._services.lines.take(key, records, lambda jobid: self._services.jobs.has_part(jobid, key))
        self._services.jobs.announce(touched)
        resp.text = _OK

    def on_post_open_text(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        """A list of what streams have begun to print, without ``data`` where they have not any more."""
        shown = self._received(req, self._services.limits.log_body, "error", parse_open_texts)
        if shown is None:
            _refuse("error")
        key = self._heard_of(gid, nid)
        touched = self._services.open_texts.take(key, shown, lambda jobid: self._services.jobs.has_part(jobid, key))
        self._services.jobs.announce(touched)
        resp.text = _OK

    def on_post_waiting(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        """A list of jobs that wait for their turn at the agent, or do so no more."""
        waiting = self._received(req, self._services.limits.log_body, "error", parse_waiting)
        if waiting is None:
            _refuse("error")
        key = self._heard_of(gid, nid)
        for job_id, waits in waiting:
            self._services.jobs.note_waiting(job_id, key, waits)
            if waits:
                self._services.results.end_expired(job_id, key)
        self._services.jobs.announce(job_id for job_id, _ in waiting)
        resp.text = _OK

    def on_post_stats(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        """A list of flush objects, kept or refused as a whole."""
        points = self._received(req, self._services.limits.stats_body, "json error", parse_points)
        if points is None:
            _refuse("json error")
        self._services.metrics.take(self._heard_of(gid, nid), points)
        resp.text = _OK

    def on_post_event(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        """The agent counts as heard of."""
        received = self._received(req, self._services.limits.event_body, "Error")
        if not isinstance(received, dict) or not isinstance(received.get("name"), str):
            _refuse("Error")
        key = self._heard_of(gid, nid)
        resp.set_headers(TAKEN)
        if received["name"] == "startup":
            self._services.results.has_started(key)
        elif received["name"] == "shutdown":
            self._services.agents.stopped(key)
        resp.text = _OK

    def on_get_script(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        """The text of a stored script."""
        digest = req.get_param("hash")
        content = self._services.scripts.get(digest) if digest else None
        if content is None:
            resp.status = falcon.HTTP_404 if digest else falcon.HTTP_400
            content = f"Script with hash {digest!r} does not exist" if digest else "Missing 'hash' param"
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = content

    def on_get_ping(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        """Alive. Whoever asks need not be an agent: none is made of it."""
        if self._services.agents.get(_key(gid, nid)) is not None:
            self._heard_of(gid, nid)
        resp.text = _OK

    def _received(self, req: falcon.Request, limit: int, refusal: str, make: Callable[[Any], Any] = unchanged) -> Any:
        """What ``make`` makes of the JSON value of the body, or the original's answer to one that has none."""
        try:
            return self._bodies.read(req, limit, make)
        except (BodyTooLargeError, TooLargeResultError) as error:
            raise falcon.HTTPStatus(falcon.HTTP_413, text=json.dumps(str(error))) from None
        except NoRoomError as error:
            headers = {"Retry-After": str(RETRY_AFTER)}
            raise falcon.HTTPStatus(falcon.HTTP_503, headers, json.dumps(str(error))) from None
        except BodyError:
            _refuse("body error")
        except NotJsonError:
            _refuse(refusal)

    def _heard_of(self, gid: str, nid: str) -> AgentKey:
        return self._services.agents.contact(_key(gid, nid)).key


class ParkedPoll:
    """A poll that waits for its answer.

    That comes without the web framework, which would double what waking a poll costs.
    """

    __slots__ = ("_descriptor", "_poll", "_services", "_watch")

    def __init__(self, services: Services, watch: DisconnectWatch, poll: Poll, descriptor: int) -> None:
        self._services = services
        self._watch = watch
        self._poll = poll
        self._descriptor = descriptor

    def when_woken(self, wake: Callable[[], None]) -> None:
        self._poll.when_woken(wake)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        """The answer, as an application of its own."""
        dispatcher = self._services.dispatcher
        try:
            delivery = dispatcher.go_on(self._poll)
        except StateError as error:
            self._services.log.error(str(error))
            start_response("503 Service Unavailable", [("Content-Type", "application/json")])
            return [json.dumps({"error": str(error)}).encode()]
        finally:
            if not self._poll.is_parked:
                self._watch.remove(self._descriptor)
        if self._poll.is_parked:
            environ[PARKED] = self
            return []
        headers, body = _answer(delivery)
        if delivery is not None:
            environ[UNWRITTEN] = partial(dispatcher.take_back, delivery)
        start_response("200 OK", headers)
        return [body]


def _answer(delivery: Delivery | None) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body for a poll."""
    headers = [("content-type", falcon.MEDIA_TEXT), *TAKEN]
    if delivery is None:
        return headers, b""
    if delivery.token:
        headers.append((DELIVERY, delivery.token))
    commands = [handed.assignment.job.command for handed in delivery.handed]
    if len(commands) > 1:
        headers.append((COMMANDS, str(len(commands))))
    return headers, "\n".join(commands).encode()


def parse_waiting(received: Any) -> list[tuple[str, bool]] | None:
    """What an agent posted; None where it is no list of objects with a job's id and whether that waits."""
    if not isinstance(received, list) or not all(isinstance(one, dict) for one in received):
        return None
    found = [(one.get("id"), one.get("waits")) for one in received]
    return found if all(isinstance(job_id, str) and isinstance(waits, bool) for job_id, waits in found) else None


def _refuse(answer: str) -> NoReturn:
    raise falcon.HTTPStatus(falcon.HTTP_500, text=json.dumps(answer))


def _key(gid: str, nid: str) -> AgentKey:
    """Text that is no number counts as 0, as in the original (protocol 1.2)."""
    return AgentKey(_number(gid), _number(nid))


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= IDENTITY_DIGITS else 0


def _slots(text: str | None) -> int | None:
    if text is None or not _SLOTS.fullmatch(text):
        return None
    return max(0, int(text))


def _version(user_agent: str | None) -> str:
    name, _, version = (user_agent or "").partition("/")
    return version[:40] if name == "greenagent" else ""
