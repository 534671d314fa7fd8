"""``greenagent-ctl kill``: ends a job, or sends it a signal, and says what became of it."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from typing import Any, Final

from greenagent.cli.common import ago
from greenagent.cli.ctl.client import ENDED, UNKNOWN, Client, ControllerError, job_path
from greenagent.cli.ctl.exit_codes import FAILED, NOT_SO
from greenagent.cli.ctl.ids import of_job
from greenagent.cli.ctl.originals import is_first
from greenagent.cli.ctl.output import PROGRAM, agent_name, note
from greenagent.values import states
from greenagent.values.signals import parse_signal

DEFAULT_WAIT: Final = 20.0
"""Seconds for the agents' answers: one gives a job kill_grace + pipe_drain + 5 s to be gone, 12 s by default."""
_RESULT_WAIT: Final = 2.0
"""Seconds for the job's own result once its agent has said that it is gone."""


def signal_name(text: str) -> str:
    """An option that names a signal. Raises SignalError."""
    parse_signal(text)
    return text


def kill(client: Client, options: argparse.Namespace) -> int:
    """0 when every agent that has the job did as told, 1 when one could not, 125 when one did not answer in time."""
    order = {} if options.signal is None else {"signal": options.signal}
    told = of_job(client, options.id, lambda job_id: _order(client, job_id, order))
    path = job_path(told["id"])
    job = f"job {told['id']}"
    away = {one["id"]: text for one in told["kills"] if (text := _away(client, one))}
    for text in away.values():
        note(f"{job}: {text}")
    deadline = time.monotonic() + options.wait
    answers = [_answer(client, one, deadline) for one in told["kills"]] if options.wait else []
    if options.signal is None and any(answer["state"] == states.ERROR for answer in answers):
        ended = _ended_by_itself(client.get(path, _RESULT_WAIT))
        for answer in answers:
            if (answer["gid"], answer["nid"]) in ended:
                answer["state"] = states.SUCCESS
    done = [answer for answer in answers if answer["state"] == states.SUCCESS]
    if options.signal is None and any(answer["first"] for answer in done):
        _find_survivors(done, client.get(path, _RESULT_WAIT))
    code = max(map(_code, answers), default=0)
    if options.json:
        print(json.dumps({**told, "answers": answers}))
        return code
    if not options.wait and told["kills"]:
        if heard := [one for one in told["kills"] if one["id"] not in away]:
            print(f"{job}: told {_names(heard)}")
        return 0
    for answer in answers:
        if answer["goes_on"]:
            note(f"{job}: {agent_name(answer)}: {answer['goes_on']}")
        elif answer["state"] is None and answer["id"] not in away:
            note(f"{job}: {agent_name(answer)} did not answer within {options.wait:g} s; it was told")
        elif answer["state"] not in (None, states.SUCCESS):
            note(f"{job}: {agent_name(answer)}: {answer['data'] or answer['state']}")
    if options.signal is not None and done:
        print(f"{job}: signal sent by {_names(done)}")
    elif any(not answer["goes_on"] for answer in done) or not told["kills"]:
        state = client.get(path, _RESULT_WAIT)["state"] if done else told["state"]
        print(f"{job}: {state}")
    return code


def _order(client: Client, job_id: str, order: dict[str, str]) -> dict[str, Any]:
    """The controller's answer. Raises ControllerError, with another way to end the job where there is one."""
    try:
        return client.post(f"{job_path(job_id)}/kill", order)
    except ControllerError as error:
        if way := _other_way(client, error.status, {"id": job_id, **order}):
            raise ControllerError(f"{error}; {way}", error.status) from None
        raise


def _other_way(client: Client, status: int, order: dict[str, str]) -> str:
    """How a job can be ended that the controller knows nothing or not the end of; "" where it knows better."""
    where: list[dict[str, Any]] = []
    try:
        if status == UNKNOWN:
            where = client.get(f"{job_path(order['id'])}/logs", limit=1)["lines"]
        elif status == ENDED:
            job = client.get(job_path(order["id"]))
            undelivered = {agent_name(one) for one in job["results"] if one.get("delivered") is False}
            where = [
                one
                for one in job["agents"]
                if job.get("adopted") or (one.get("handed_over") and agent_name(one) in undelivered)
            ]
    except ControllerError:
        pass  # nothing more is known
    if status != UNKNOWN and not where:
        return ""
    gid, nid = (where[0]["gid"], where[0]["nid"]) if where else ("GID", "NID")
    data = shlex.quote(json.dumps(order))
    return f"if it runs all the same, this ends it: {PROGRAM} run --gid {gid} --nid {nid} --cmd kill --data {data}"


def _away(client: Client, told: dict[str, Any]) -> str:
    """What becomes of a kill command whose agent is not there; "" where it is."""
    found = client.get("agents", agent=agent_name(told))["agents"]
    if found and found[0]["live"]:
        return ""
    contact = found[0]["last_contact"] if found else None
    heard = f"last heard of {ago(contact)}" if contact else "not heard of since the controller's start"
    return f"{agent_name(told)} is away, {heard}: the kill waits for it at the controller, however long that takes"


def _answer(client: Client, told: dict[str, Any], deadline: float) -> dict[str, Any]:
    """What an agent answered to its kill command; ``state`` None where it has not by then.

    ``first``: it is an original of the first generation. ``goes_on``: why the job has not ended, though it said so.
    """
    answer = {**told, "state": None, "data": "", "first": False, "goes_on": ""}
    while True:
        left = deadline - time.monotonic()
        (result,) = client.get(job_path(told["id"]), max(0.0, min(left, 10.0)))["results"]
        if result["state"] in states.TERMINAL:
            first = is_first(result)
            return {**answer, "state": result["state"], "data": result.get("data") or "", "first": first}
        if left <= 0:
            return answer


def _code(answer: dict[str, Any]) -> int:
    if answer["state"] == states.SUCCESS:
        return NOT_SO if answer["goes_on"] else 0
    return FAILED if answer["state"] is None else NOT_SO


def _find_survivors(answers: list[dict[str, Any]], job: dict[str, Any]) -> None:
    """Notes why a job goes on: originals of the first generation answer every kill with SUCCESS (protocol 5.6)."""
    restarts = (job["command"].get("args") or {}).get("max_restart")
    runs_again = job["recurring"] or (isinstance(restarts, (int, float)) and restarts > 1)
    states_of = {(one["gid"], one["nid"]): one["state"] for one in job["agents"]}
    for answer in answers:
        state = states_of[answer["gid"], answer["nid"]]
        if not answer["first"] or state not in (states.RUNNING, states.KILLED):
            continue
        if runs_again:
            answer["goes_on"] = (
                "a first original ends no more than one run of a job with recurring_period or max_restart:"
                " it goes on until the agent ends"
            )
        elif state == states.RUNNING:
            answer["goes_on"] = "a first original has killed it, but it has not ended"


def _ended_by_itself(job: dict[str, Any]) -> set[tuple[int, int]]:
    """The agents where the job was over before the kill came: they know no such job any more."""
    own = states.TERMINAL - {states.KILLED}
    return {(result["gid"], result["nid"]) for result in job["results"] if result["state"] in own}


def _names(agents: list[dict[str, Any]]) -> str:
    return ", ".join(map(agent_name, agents))
