"""The endpoints agents use, with the original's answers (protocol 1.2)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import falcon

from greenagent.controller.access import AgentResource
from greenagent.controller.agents import Poll
from greenagent.controller.bodies import BodyError, BodyTooLargeError, decode, finite, read_body
from greenagent.controller.hangups import HangUpWatch, has_hung_up
from greenagent.controller.jobs import IDENTITY_DIGITS, AgentKey
from greenagent.controller.parts import Parts

ACKNOWLEDGE = "Greenagent-Acknowledge"
DELIVERY = "Greenagent-Delivery"
FREE_SLOTS = "Greenagent-Free-Slots"

OK = '"ok"'
_SLOTS = re.compile("-?[0-9]{1,9}")
MAX_ROLES = 1000


def add_agent_routes(app: falcon.App[Any, Any], parts: Parts, watch: HangUpWatch) -> None:
    """Adds the routes below ``/<gid>/<nid>/``."""
    app.add_route("/{gid}/{nid}/cmd", CommandResource(parts, watch))
    app.add_route("/{gid}/{nid}/result", ResultResource(parts))
    app.add_route("/{gid}/{nid}/log", UploadResource(parts, parts.lines.take, parts.limits.log_body, '"error"'))
    app.add_route(
        "/{gid}/{nid}/stats", UploadResource(parts, parts.figures.take, parts.limits.stats_body, '"json error"')
    )
    app.add_route("/{gid}/{nid}/event", EventResource(parts))
    app.add_route("/{gid}/{nid}/script", ScriptResource(parts))
    app.add_route("/{gid}/{nid}/ping", PingResource(parts))


class CommandResource(AgentResource):
    """GET ``cmd``: the long poll."""

    def __init__(self, parts: Parts, watch: HangUpWatch) -> None:
        self._parts = parts
        self._watch = watch

    def on_get(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        descriptor: int = req.env["greenagent.descriptor"]
        acknowledged = req.get_header(ACKNOWLEDGE)
        poll = Poll(
            key=_key(gid, nid),
            roles=tuple(dict.fromkeys(req.get_param_as_list("role") or ()))[:MAX_ROLES],
            slots=_slots(req.get_header(FREE_SLOTS)),
            acknowledges=acknowledged is not None,
            version=_version(req.user_agent),
            is_gone=lambda: has_hung_up(descriptor),
        )
        tokens = {token.strip() for token in (acknowledged or "").split(",")} - {""}
        self._watch.add(descriptor, poll.hang_up)
        try:
            handover = self._parts.dispatcher.serve(poll, tokens)
        finally:
            self._watch.remove(descriptor)
        resp.content_type = falcon.MEDIA_TEXT
        if handover is None:
            resp.text = ""
            return
        resp.text = json.dumps(handover.assignment.job.command)
        if handover.token:
            resp.set_header(DELIVERY, handover.token)
        req.env["greenagent.unwritten"] = lambda: self._parts.dispatcher.hand_back(handover)


class ResultResource(AgentResource):
    """POST ``result``: one result object."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def on_post(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        received = _received(req, resp, self._parts.limits.result_body, '"json error"')
        if received is _UNREADABLE:
            return
        key = _key(gid, nid)
        self._parts.agents.contact(key)
        try:
            self._parts.outcomes.take(key, finite(received))  # lines and figures are looked at one by one
        except self._parts.result_error as error:
            self._parts.agent_log.warning(f"agent {key} posted a result that was refused: {error}")
            _answer(resp, falcon.HTTP_500, '"json error"')
            return
        _answer(resp, falcon.HTTP_200, OK)


class UploadResource(AgentResource):
    """POST ``log`` and ``stats``: a list that is kept or refused as a whole."""

    def __init__(self, parts: Parts, take: Callable[[AgentKey, Any], bool], limit: int, refusal: str) -> None:
        self._parts = parts
        self._take = take
        self._limit = limit
        self._refusal = refusal

    def on_post(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        received = _received(req, resp, self._limit, self._refusal)
        if received is _UNREADABLE:
            return
        key = _key(gid, nid)
        self._parts.agents.contact(key)
        if self._take(key, received):
            _answer(resp, falcon.HTTP_200, OK)
        else:
            _answer(resp, falcon.HTTP_500, self._refusal)


class EventResource(AgentResource):
    """POST ``event``: noted, and the agent counts as heard of."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def on_post(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        received = _received(req, resp, self._parts.limits.event_body, '"Error"')
        if received is _UNREADABLE:
            return
        if not isinstance(received, dict) or not isinstance(received.get("name"), str):
            _answer(resp, falcon.HTTP_500, '"Error"')
            return
        self._parts.agents.contact(_key(gid, nid))
        _answer(resp, falcon.HTTP_200, OK)


class ScriptResource(AgentResource):
    """GET ``script?hash=``: the text of a stored script."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def on_get(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        _key(gid, nid)
        resp.content_type = falcon.MEDIA_TEXT
        digest = req.get_param("hash")
        if not digest:
            resp.status = falcon.HTTP_400
            resp.text = "Missing 'hash' param"
            return
        content = self._parts.scripts.get(digest)
        if content is None:
            resp.status = falcon.HTTP_404
            resp.text = f"Script with hash {digest!r} does not exist"
            return
        resp.text = content


class PingResource(AgentResource):
    """GET ``ping``: alive."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def on_get(self, req: falcon.Request, resp: falcon.Response, gid: str, nid: str) -> None:
        self._parts.agents.contact(_key(gid, nid))
        _answer(resp, falcon.HTTP_200, OK)


_UNREADABLE = object()


def _received(req: falcon.Request, resp: falcon.Response, limit: int, refusal: str) -> Any:
    """The JSON value of the body, or ``_UNREADABLE`` when the answer is given already."""
    try:
        return decode(read_body(req, limit))
    except BodyTooLargeError:
        _answer(resp, falcon.HTTP_413, json.dumps(f"more than {limit} bytes"))
    except BodyError:
        _answer(resp, falcon.HTTP_500, '"body error"')
    except ValueError:
        _answer(resp, falcon.HTTP_500, refusal)
    return _UNREADABLE


def _answer(resp: falcon.Response, status: str, text: str) -> None:
    resp.status = status
    resp.content_type = falcon.MEDIA_JSON
    resp.text = text


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
