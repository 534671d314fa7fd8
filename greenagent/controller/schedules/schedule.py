"""A schedule as people gave it, and how far it has come. Nothing here waits, reads or writes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from greenagent.controller.dispatch.submission import parse_posted
from greenagent.controller.schedules.cron import CronError, Expression, cached_cron, with_seconds
from greenagent.controller.schedules.zones import ZoneError
from greenagent.values.command import problem_of_id
from greenagent.values.errors import CommandError, GreenagentError

MAX_JITTER: Final = 7 * 86_400.0
"""Seconds by which a run may be put off."""
MAX_EVENTS: Final = 20
"""Of what has happened lately to a schedule, so much is kept."""
KEYS: Final = ("id", "cron", "command", "zone", "jitter", "overlap", "catch_up", "paused", "replace")
"""What people give."""


class ScheduleError(GreenagentError):
    """What somebody gave is no schedule."""


@dataclass(frozen=True)
class Schedule:
    """What is to run, and when. Its JSON has the keys ``id``, ``cron`` and ``cmd`` of the originals, and ours."""

    id: str
    cron: str
    """As the originals read it: with five fields, the first is the second and the day of the week is left out."""
    cmd: dict[str, Any]
    """The command object. Each run gets an id of its own."""
    zone: str = ""
    """The name of a time zone; "" is that of the controller's machine."""
    jitter: float = 0.0
    """Seconds by which each run is put off at the most, by chance."""
    overlap: bool = True
    """A run also where the one before has not ended: what the originals do. Else it is skipped."""
    catch_up: bool = False
    """Where runs were missed, one is made up for."""
    paused: bool = False
    created: float = 0.0
    """Seconds since 1970; the runs of ``@every`` are counted from here."""
    version: str = ""
    """Another one after each change of the moments."""

    @property
    def expression(self) -> Expression:
        """Raises CronError and ZoneError: another machine may have written it, which knew more zones."""
        return cached_cron(self.cron, self.zone, self.created)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Schedule:
        """Also of one that an original wrote. Raises ValueError, TypeError or KeyError for anything else."""
        value = json.loads(text)
        known = {name: value[name] for name in cls.__dataclass_fields__ if value.get(name) is not None}
        return cls(**known)

    def changed(self, **changes: Any) -> Schedule:
        """The same with changes, of a version of its own."""
        return replace(self, **changes, version=uuid.uuid4().hex)


@dataclass(frozen=True)
class Progress:
    """How far a schedule has come. Moments are seconds since 1970 as the wall clock shows them."""

    version: str | None = None
    """That of the schedule it belongs to."""
    reckoned: float = 0.0
    """Of all moments up to here it is decided what became of them."""
    due: float | None = None
    """The next moment; None while it is paused."""
    at: float | None = None
    """When it runs for it: the jitter is decided beforehand."""
    seed: str = field(default_factory=lambda: uuid.uuid4().hex)
    """With ``runs`` it makes the id of the next run: the same one again, should the controller be killed amid it."""
    runs: int = 0
    """Runs that were posted, or refused."""
    skipped: int = 0
    """Runs that were left out since the one before had not ended."""
    missed: int = 0
    """Runs that nobody was there to post in time."""
    job: str = ""
    """The id of the newest run."""
    events: tuple[dict[str, Any], ...] = ()
    """What happened lately, the newest last: ``at``, ``what`` (run, skipped, missed, refused), ``job``, ``text``."""

    def next_id(self) -> str:
        return str(uuid.uuid5(uuid.UUID(self.seed), str(self.runs + 1)))

    def with_event(self, at: float, what: str, text: str = "", job: str = "") -> Progress:
        event = {"at": at, "what": what, "job": job, "text": text}
        return replace(self, events=(*self.events, event)[-MAX_EVENTS:])

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Progress:
        """Raises ValueError or TypeError for anything else."""
        value = json.loads(text)
        return cls(**{**value, "events": tuple(value.get("events", ()))})


def parse_schedule(given: Any, now: float, max_length: int) -> Schedule:
    """What people gave, whose five fields begin with the minute. Raises ScheduleError.

    ``max_length``: characters of the command's JSON text.
    """
    if not isinstance(given, dict):
        raise ScheduleError("a schedule is a JSON object")
    if unknown := [key for key in given if key not in KEYS]:
        raise ScheduleError(f"{str(unknown[0])[:100]!r} is no key of a schedule: {', '.join(KEYS)}")
    command = _checked_command(given.get("command"), "command", max_length)
    if reason := _never_ends(command):
        raise ScheduleError(f"a command with {reason} never ends: the agent runs it again and again by itself")
    cron = given.get("cron")
    return _checked(
        Schedule(
            id=_member(given, "id", str, "text"),
            cron=with_seconds(cron) if isinstance(cron, str) else "",
            cmd=command,
            zone=_member(given, "zone", str, "the name of a time zone"),
            jitter=_jitter(given.get("jitter")),
            overlap=_member(given, "overlap", bool, "true or false"),
            catch_up=_member(given, "catch_up", bool, "true or false"),
            paused=_member(given, "paused", bool, "true or false"),
            created=float(int(now)),
            version=uuid.uuid4().hex,
        )
    )


def parse_original(given: Any, now: float, max_length: int) -> Schedule:
    """What a client of the originals gave (protocol 12.5). Raises ScheduleError."""
    if not isinstance(given, dict):
        raise ScheduleError("a schedule is an object with 'id', 'cron' and 'cmd'")
    command = _checked_command(given.get("cmd"), "cmd", max_length)
    cron = given.get("cron")
    return _checked(
        Schedule(
            id=_member(given, "id", str, "text"),
            cron=cron if isinstance(cron, str) else "",
            cmd=command,
            created=float(int(now)),
            version=uuid.uuid4().hex,
        )
    )


def _checked(schedule: Schedule) -> Schedule:
    if problem := problem_of_id(schedule.id or None):
        raise ScheduleError(f"'id' of a schedule: {problem}" if schedule.id else "'id' is missing: a name")
    if not schedule.cron:
        raise ScheduleError("'cron' is missing: a text that says when")
    try:
        schedule.expression.following(schedule.created)
    except (CronError, ZoneError) as error:
        raise ScheduleError(str(error)) from error
    return schedule


def _checked_command(command: Any, name: str, max_length: int) -> dict[str, Any]:
    if not isinstance(command, dict):
        raise ScheduleError(f"{name!r} is missing: the command object to run")
    try:
        parse_posted({**command, "id": None})
        text = json.dumps(command)
    except (CommandError, ValueError, RecursionError) as error:
        raise ScheduleError(f"{name!r}: {error}") from error
    if len(text) > max_length:
        raise ScheduleError(f"{name!r} is longer than {max_length} characters: let the job read a file instead")
    return command


def _never_ends(command: Mapping[str, Any]) -> str:
    args = command.get("args")
    args = args if isinstance(args, dict) else {}
    return "recurring_period" if args.get("recurring_period") else "restart" if args.get("restart") else ""


def _member(given: Mapping[str, Any], key: str, kind: type, wanted: str) -> Any:
    value = given.get(key)
    if value is None:
        return kind()
    if type(value) is not kind:
        raise ScheduleError(f"{key!r} must be {wanted}")
    return value


def _jitter(value: Any) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_JITTER:
        raise ScheduleError(f"'jitter' must be a number of seconds (0 to {MAX_JITTER:.0f})")
    return float(value)
