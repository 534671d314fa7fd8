"""``greenagent-ctl kill``: ends a job, or sends it a signal, and says what became of it."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, Final

from greenagent.cli.ctl_client import Client, job_path
from greenagent.cli.ctl_output import say
from greenagent.cli.ctl_run import EXIT_FAILED, EXIT_NOT_DELIVERED
from greenagent.cli.ctl_trust import UsageError
from greenagent.values import states
from greenagent.values.errors import SignalError
from greenagent.values.signals import parse_signal

DEFAULT_WAIT: Final = 20.0
"""Seconds for the agents' answers: one gives a job kill_grace + pipe_drain + 5 s to be gone, 12 s by default."""
_RESULT_WAIT: Final = 2.0
"""Seconds for the job's own result once its agent has said that it is gone."""


def kill(client: Client, options: argparse.Namespace) -> int:
    """0 when every agent that has the job did as told, 1 when one could not, 3 when one did not answer in time."""
    body: dict[str, Any] = {}
    if options.signal is not None:
        try:
            parse_signal(options.signal)
        except SignalError as error:
            raise UsageError(f"--signal: {error}") from error
        body["signal"] = options.signal
    told = client.post(f"{job_path(options.id)}/kill", body)
    deadline = time.monotonic() + options.wait
    answers = [_answer(client, one, deadline) for one in told["kills"]] if options.wait else []
    if options.signal is None and any(answer["state"] == states.ERROR for answer in answers):
        ended = _ended_by_itself(client.get(job_path(options.id), _RESULT_WAIT))
        answers = [
            {**answer, "state": states.SUCCESS} if (answer["gid"], answer["nid"]) in ended else answer
            for answer in answers
        ]
    code = max((_code(answer) for answer in answers), default=0)
    if options.json:
        print(json.dumps({**told, "answers": answers}))
        return code
    if not options.wait and told["kills"]:
        print(f"job {told['id']}: told {_names(told['kills'])}")
        return 0
    for answer in answers:
        if answer["state"] is None:
            say(f"job {told['id']}: {_name(answer)} did not answer within {options.wait:g} s; it was told")
        elif answer["state"] != states.SUCCESS:
            say(f"job {told['id']}: {_name(answer)}: {answer['data'] or answer['state']}")
    done = [answer for answer in answers if answer["state"] == states.SUCCESS]
    if options.signal is not None and done:
        print(f"job {told['id']}: signal sent by {_names(done)}")
    elif done or not told["kills"]:
        job = client.get(job_path(options.id), _RESULT_WAIT) if done else told
        print(f"job {told['id']}: {job['state']}")
    return code


def _answer(client: Client, told: dict[str, Any], deadline: float) -> dict[str, Any]:
    """What an agent said to its kill command; ``state`` None where it has not by then."""
    while True:
        left = deadline - time.monotonic()
        order = client.get(job_path(told["id"]), max(0.0, min(left, 10.0)))
        (result,) = order["results"]
        if result["state"] in states.TERMINAL:
            return {"gid": told["gid"], "nid": told["nid"], "state": result["state"], "data": result.get("data") or ""}
        if left <= 0:
            return {"gid": told["gid"], "nid": told["nid"], "state": None, "data": ""}


def _ended_by_itself(job: dict[str, Any]) -> set[tuple[int, int]]:
    """The agents where the job was over before the kill came: they know no such job any more."""
    own = states.TERMINAL - {states.KILLED}
    return {(result["gid"], result["nid"]) for result in job["results"] if result["state"] in own}


def _code(answer: dict[str, Any]) -> int:
    if answer["state"] is None:
        return EXIT_NOT_DELIVERED
    return 0 if answer["state"] == states.SUCCESS else EXIT_FAILED


def _name(agent: dict[str, Any]) -> str:
    return f"{agent['gid']}:{agent['nid']}"


def _names(agents: list[dict[str, Any]]) -> str:
    return ", ".join(map(_name, agents))
