"""``/api/schedules``: what people and tools ask of schedules."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import falcon

from greenagent.controller.http.answers import show_pieces
from greenagent.controller.http.bodies import Bodies
from greenagent.controller.http.body_values import unchanged
from greenagent.controller.http.people_api import Refusals, add_routes
from greenagent.controller.json_parts import json_list, json_object
from greenagent.controller.model import MAX_SHOWN_LINE, Brief
from greenagent.controller.schedules.schedule import Progress, Schedule, ScheduleError, parse_schedule
from greenagent.controller.schedules.scheduler import (
    KnownScheduleError,
    StillRunsError,
    TooManySchedulesError,
    UnknownScheduleError,
)
from greenagent.controller.services import Services

ROUTES: Final = {
    "/api/schedules": "schedules",
    "/api/schedules/{schedule_id}": "schedule",
    "/api/schedules/{schedule_id}/pause": "pause",
    "/api/schedules/{schedule_id}/resume": "resume",
    "/api/schedules/{schedule_id}/run": "run",
    "/api/schedules/{schedule_id}/remove": "remove",
}
"""Each path with the ending of the methods that serve it."""

REFUSALS: Final[Refusals] = {
    ScheduleError: falcon.HTTPBadRequest,
    UnknownScheduleError: falcon.HTTPNotFound,
    KnownScheduleError: falcon.HTTPConflict,
    StillRunsError: falcon.HTTPConflict,
    TooManySchedulesError: falcon.HTTPServiceUnavailable,
}


def add_schedule_routes(app: falcon.App[Any, Any], services: Services, bodies: Bodies) -> None:
    add_routes(app, ScheduleApi(services, bodies), ROUTES, REFUSALS)


class ScheduleApi:
    """A method for each endpoint and verb."""

    def __init__(self, services: Services, bodies: Bodies) -> None:
        self._services = services
        self._schedules = services.schedules
        self._bodies = bodies

    def on_post_schedules(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A schedule; ``replace`` lets it take the place of one of the same id."""
        limits = self._services.limits
        given = self._bodies.read(req, 2 * limits.schedule_command, unchanged)
        schedule = parse_schedule(given, time.time(), limits.schedule_command)
        self._schedules.add(schedule, replaces=given.get("replace") is True)
        resp.status = falcon.HTTP_201
        kept, _ = self._schedules.get(schedule.id)
        following = None if kept.paused else kept.expression.following(time.time())
        resp.text = json.dumps({"id": kept.id, "paused": kept.paused, "next": following})

    def on_get_schedules(self, req: falcon.Request, resp: falcon.Response) -> None:
        """All of them, by id, without their commands."""
        shown = (json.dumps(self._shown(*kept)) for kept in self._schedules.all())
        show_pieces(resp, json_object({}, schedules=json_list(shown)))

    def on_get_schedule(self, req: falcon.Request, resp: falcon.Response, schedule_id: str) -> None:
        """One of them, with its command and what happened lately."""
        schedule, progress = self._schedules.get(_id(schedule_id))
        shown = {**self._shown(schedule, progress), "command": schedule.cmd, "events": progress.events}
        resp.text = json.dumps(shown)

    def on_post_pause(self, req: falcon.Request, resp: falcon.Response, schedule_id: str) -> None:
        """It posts nothing until it is resumed."""
        self._schedules.pause(_id(schedule_id), True)
        resp.text = json.dumps({"id": _id(schedule_id), "paused": True})

    def on_post_resume(self, req: falcon.Request, resp: falcon.Response, schedule_id: str) -> None:
        """It goes on with the next moment."""
        self._schedules.pause(_id(schedule_id), False)
        resp.text = json.dumps({"id": _id(schedule_id), "paused": False})

    def on_post_run(self, req: falcon.Request, resp: falcon.Response, schedule_id: str) -> None:
        """One run at once; answers the id of its job."""
        job = self._schedules.run_now(_id(schedule_id))
        resp.status = falcon.HTTP_202
        resp.text = json.dumps({"id": _id(schedule_id), "job": job.id})

    def on_post_remove(self, req: falcon.Request, resp: falcon.Response, schedule_id: str) -> None:
        """The jobs it has posted go on."""
        self._schedules.remove(_id(schedule_id))
        resp.text = json.dumps({"id": _id(schedule_id), "removed": True})

    def _shown(self, schedule: Schedule, progress: Progress) -> dict[str, Any]:
        job = self._services.jobs.get(progress.job) if progress.job else None
        command = schedule.cmd
        return {
            "id": schedule.id,
            "cron": schedule.cron,
            "zone": schedule.zone,
            "jitter": schedule.jitter,
            "overlap": schedule.overlap,
            "catch_up": schedule.catch_up,
            "paused": schedule.paused,
            "created": schedule.created,
            "next": progress.at if progress.version == schedule.version else None,
            "runs": progress.runs,
            "skipped": progress.skipped,
            "missed": progress.missed,
            "last": next((event for event in reversed(progress.events)), None),
            "job": progress.job or None,
            "state": None if job is None else job.state,
            "command_line": Brief.of(command).command_line[:MAX_SHOWN_LINE],
            "gid": command.get("gid") or 0,
            "nid": command.get("nid") or 0,
            "roles": command.get("roles") or ([command["role"]] if command.get("role") else []),
            "fanout": bool(command.get("fanout")),
        }


def _id(segment: str) -> str:
    """The id in a path: the server hands ``%2F`` through as a character that no id can hold."""
    return segment.replace("\x1f", "/")
