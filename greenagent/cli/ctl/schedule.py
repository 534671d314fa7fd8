"""``greenagent-ctl schedule``: commands that the controller posts by itself."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from greenagent.cli.common import UsageError, ago, local_time, one_line, print_table, seconds, terminal_width
from greenagent.cli.ctl.client import Client
from greenagent.cli.ctl.output import agent_name, as_argument, note
from greenagent.cli.ctl.run_options import add_command_options, command_of

NONE: Final = "-"
"""In a table, what is not known or does not apply."""
_FORMS: Final = (
    "'30 2 * * *' (minute hour day-of-month month day-of-week), six fields with the second in front, '@every 90s',"
    " '@daily' and its like"
)


def add_schedule_commands(add: Callable[..., Any]) -> None:
    """Adds the commands below ``schedule``. ``add``: makes one of a name, an action and a text."""
    new = add("add", add_one, "have a command run again and again; its options are those of run", words_after=2)
    new.add_argument("schedule_id", metavar="NAME", help="its name")
    new.add_argument("cron", metavar="CRON", help=f"when: {_FORMS}")
    new.add_argument("--zone", metavar="ZONE", help="time zone of CRON, as Europe/Berlin (default the controller's)")
    new.add_argument("--jitter", type=seconds, metavar="SECONDS", help="put each run off by chance, by so much at most")
    new.add_argument("--overlap", action="store_true", help="run it also while the run before has not ended")
    new.add_argument("--catch-up", action="store_true", help="make up for missed runs by one")
    new.add_argument("--paused", action="store_true", help="wait for: schedule resume NAME")
    new.add_argument("--replace", action="store_true", help="in the place of the one of that name, if there is one")
    add_command_options(new)
    new.usage = f"{new.prog} NAME CRON [OPTION ...] [--] COMMAND ARG ..."
    new.set_defaults(id=None, restart=None, recurring_period=None, require_all=False, detach=True)
    add("list", list_all, "the schedules")
    for name, action, text in (
        ("show", show, "one schedule, and what happened to it lately"),
        ("pause", pause, "let a schedule run no more until it is resumed"),
        ("resume", resume, "let a paused schedule go on"),
        ("run", run_now, "run a schedule's command at once; prints the id of the job"),
        ("remove", remove, "forget a schedule; jobs of it go on"),
    ):
        add(name, action, text).add_argument("schedule_id", metavar="NAME", help="its name")


def add_one(client: Client, options: argparse.Namespace) -> int:
    """Posts a new schedule."""
    if not options.schedule_id:
        raise UsageError("an empty text is no schedule's name")
    given: dict[str, Any] = {
        "id": options.schedule_id,
        "cron": options.cron,
        "zone": options.zone,
        "jitter": options.jitter,
        "command": command_of(options),
    }
    flags = {name: True for name in ("overlap", "catch_up", "paused", "replace") if getattr(options, name)}
    answer = client.post("schedules", {name: value for name, value in given.items() if value is not None} | flags)
    if options.json:
        print(json.dumps(answer))
    elif answer["paused"]:
        print(f"schedule {answer['id']} is paused; it goes on after: greenagent-ctl schedule resume {_word(answer)}")
    else:
        print(f"schedule {answer['id']} runs next at {_moment(answer['next'])}")
    return 0


def list_all(client: Client, options: argparse.Namespace) -> int:
    """The schedules as a table."""
    answer = client.get("schedules")
    if options.json:
        print(json.dumps(answer))
        return 0
    heads = ("SCHEDULE", "WHEN", "NEXT", "LAST RUN", "RUNS", "SKIPPED", "MISSED", "WHERE", "COMMAND")
    rows = [
        (
            one["id"],
            _when(one),
            "paused" if one["paused"] else _moment(one["next"]),
            _last(one),
            *(str(one[name]) for name in ("runs", "skipped", "missed")),
            _where(one),
            one["command_line"],
        )
        for one in answer["schedules"]
    ]
    print_table(heads, rows, width=terminal_width())
    if not rows:
        note("the controller has no schedule")
    return 0


def show(client: Client, options: argparse.Namespace) -> int:
    """One of them."""
    one = client.get(_path(options))
    if options.json:
        print(json.dumps(one))
        return 0
    print(one_line(f"schedule {one['id']}: {_when(one)}, {'paused' if one['paused'] else 'active'}"))
    facts = {
        "command": one["command_line"],
        "where": _where(one),
        "next": None if one["paused"] else _moment(one["next"]),
        "jitter": f"{one['jitter']:g} s" if one["jitter"] else None,
        "overlap": "a run also while the one before has not ended" if one["overlap"] else None,
        "catch up": "one run for all that were missed" if one["catch_up"] else None,
        "last run": _last(one) if one["job"] is None else f"{_last(one)}, job {one['job']}",
        "so far": f"{one['runs']} runs, {one['skipped']} skipped, {one['missed']} missed",
    }
    for name, text in facts.items():
        if text:
            print(one_line(f"{name}: {text}"))
    for event in one["events"]:
        told = event["text"] or f"job {event['job']}"
        if event["what"] == "run" and event["text"]:
            told = f"job {event['job']}, {event['text']}"
        print(one_line(f"{_moment(event['at'])}  {event['what']:<8}  {told}"))
    return 0


def pause(client: Client, options: argparse.Namespace) -> int:
    """It runs no more until it is resumed."""
    return _done(options, client.post(f"{_path(options)}/pause", {}), "is paused")


def resume(client: Client, options: argparse.Namespace) -> int:
    """It goes on with its next moment."""
    return _done(options, client.post(f"{_path(options)}/resume", {}), "goes on")


def remove(client: Client, options: argparse.Namespace) -> int:
    """It is forgotten."""
    return _done(options, client.post(f"{_path(options)}/remove", {}), "is removed")


def run_now(client: Client, options: argparse.Namespace) -> int:
    """One run at once."""
    answer = client.post(f"{_path(options)}/run", {})
    print(json.dumps(answer) if options.json else answer["job"])
    return 0


def _done(options: argparse.Namespace, answer: dict[str, Any], what: str) -> int:
    print(json.dumps(answer) if options.json else one_line(f"schedule {answer['id']} {what}"))
    return 0


def _path(options: argparse.Namespace) -> str:
    name = quote(options.schedule_id, safe="")
    if not name:
        raise UsageError("an empty text is no schedule's name")
    return f"schedules/{name.replace('.', '%2E') if name in ('.', '..') else name}"


def _word(one: dict[str, Any]) -> str:
    return as_argument(one["id"])


def _when(one: dict[str, Any]) -> str:
    return f"{one['cron']} {one['zone']}".rstrip()


def _where(one: dict[str, Any]) -> str:
    if not one["roles"]:
        return agent_name(one)
    return "+".join(one["roles"]) + (" (fanout)" if one["fanout"] else "")


def _last(one: dict[str, Any]) -> str:
    """Of the newest run; the state of its job is forgotten with that."""
    events = [event for event in one.get("events", [one["last"]]) if event and event["what"] == "run"]
    state = one["state"] or ("forgotten" if one["job"] else NONE)
    return f"{state}, {ago(events[-1]['at'])}" if events else state


def _moment(stamp: float | None) -> str:
    return NONE if stamp is None else local_time(int(stamp))
