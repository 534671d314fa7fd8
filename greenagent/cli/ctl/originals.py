"""Original agents at our controller: which they are, and the lines of a job there.

They upload lines without the id of their job, so these are asked for by their command ``get_msgs`` (protocol 6.2, 6.3).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any, Final

from greenagent.cli.ctl.client import Client, ControllerError, job_path
from greenagent.cli.ctl.output import agent_name
from greenagent.values import states
from greenagent.values.command import BUILT_IN
from greenagent.values.errors import GreenagentError

ANSWER_WAIT: Final = 10.0
"""Seconds for an agent's answer: with as many jobs as its ``max_jobs`` it takes no command at all."""
MAX_LINES: Final = 1000
"""Lines that an original gives of a job, the newest."""
WITHOUT_LINES: Final = BUILT_IN | {"hubble_open_tunnel", "hubble_close_tunnel", "hubble_list_tunnels"}
"""Commands of originals that start no process (protocol 9) and so have no lines."""
_FIRST_LINE: Final = {"name": "/bin/echo", "args": ["greenagent-ctl reads the log"], "loglevels_db": "*"}


class UnreadableLogError(GreenagentError):
    """An agent's log cannot be read; the text goes on behind "agent 1:10 is an original one and ..."."""


def originals_among(client: Client, agents: Iterable[dict[str, Any]]) -> set[str]:
    """The names of those that are original agents. Raises ControllerError."""
    names = set(map(agent_name, agents))
    if not names:
        return names
    given: dict[str, Any] = {"agent": next(iter(names))} if len(names) == 1 else {}
    found = client.get("agents", **given)["agents"]
    return {agent_name(one) for one in found if one.get("original")} & names  # controllers of 0.1 do not tell


def is_first(result: dict[str, Any]) -> bool:
    """Whether a result is of an original of the first generation: later ones tell tags in each, ours an exit code."""
    return "tags" not in result and "exit_code" not in result and result.get("delivered") is not False


def may_have_lines(result: dict[str, Any], cmd: str) -> bool:
    """Whether a job, by its command, and its result or placeholder, has or had a process."""
    refused = result["state"] in (states.UNKNOWN_CMD, states.DUPLICATE_ID)
    return cmd not in WITHOUT_LINES and not refused and bool(result.get("starttime"))


def lines_of(client: Client, agent: dict[str, Any], job_id: str) -> list[dict[str, Any]]:
    """The lines of a job in an original agent's log, oldest first, at most ``MAX_LINES``, as the API shows lines.

    Raises UnreadableLogError.
    """
    if is_first(_answer(client, agent, "ping")):
        # It has no table before its first line, and never makes one once it was asked before (protocol 6.2).
        made = _answer(client, agent, "execute", args=_FIRST_LINE)
        if made["state"] != states.SUCCESS:
            raise UnreadableLogError(f"does not run /bin/echo, which makes its log readable ({_reason(made)})")
    query = json.dumps({"jobid": job_id, "limit": MAX_LINES})
    answer = _answer(client, agent, "get_msgs", data=query)
    if answer["state"] == states.UNKNOWN_CMD:
        raise UnreadableLogError('keeps no log: it has no [logging] entry of type "DB"')
    if answer["state"] != states.SUCCESS:
        raise UnreadableLogError(f"its log cannot be read ({_reason(answer)})")
    try:
        rows = json.loads(answer["data"])
        return [_line(agent, job_id, row) for row in reversed(rows)]
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise UnreadableLogError("answers get_msgs with what are no lines") from error


def _line(agent: dict[str, Any], job_id: str, row: dict[str, Any]) -> dict[str, Any]:
    """The first generation stamps lines with seconds, later ones with milliseconds."""
    epoch = int(row["epoch"])
    stamp = epoch if epoch > 10**11 else epoch * 1000
    return {
        "number": None,
        "gid": agent["gid"],
        "nid": agent["nid"],
        "id": int(row["id"]),
        "jobid": job_id,
        "domain": str(row.get("domain") or ""),
        "name": str(row.get("name") or ""),
        "epoch_ms": stamp,
        "level": int(row["level"]),
        "data": str(row["data"]),
        "epoch": stamp // 1000,
    }


def _answer(client: Client, agent: dict[str, Any], cmd: str, **more: Any) -> dict[str, Any]:
    """The result of a command for an agent. Raises UnreadableLogError."""
    command = {"cmd": cmd, "gid": agent["gid"], "nid": agent["nid"], "args": {}, **more}
    deadline = time.monotonic() + ANSWER_WAIT
    try:
        path = job_path(client.post("jobs", command)["id"])
        result: dict[str, Any]
        [result] = client.get(path, ANSWER_WAIT)["results"]
        while not states.is_terminal(result["state"]) and (left := deadline - time.monotonic()) > 0:
            [result] = client.get(path, left)["results"]
    except ControllerError as error:
        raise UnreadableLogError(f"cannot be asked for its log: {error}") from error
    if not states.is_terminal(result["state"]):
        raise UnreadableLogError(f"did not answer within {ANSWER_WAIT:g} s when it was asked for its log")
    if result.get("delivered") is False:
        raise UnreadableLogError("is away, so that its log cannot be read")
    return result


def _reason(answer: dict[str, Any]) -> str:
    """Why a command failed; the later originals say nothing but "{}", the last ones a text in JSON."""
    text = str(answer.get("data") or "")
    try:
        text = str(json.loads(text) or "")
    except (RecursionError, ValueError):
        pass
    return " ".join(text.split()) or str(answer["state"])
