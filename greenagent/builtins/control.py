"""Commands that act on jobs and on the agent itself (protocol 5.6, 9, 13.1; design, section 5 "Ending")."""

from __future__ import annotations

from dataclasses import replace

from greenagent.builtins.registry import BuiltInError, Call, answer, command
from greenagent.jobs.commands import Answer
from greenagent.values.errors import SignalError
from greenagent.values.signals import parse_signal


@command("ping")
def ping(call: Call) -> Answer:
    """The text ``"pong"``, quoted, as JSON has it; at once, also when every slot is taken."""
    return answer("pong")


@command("kill")
def kill(call: Call) -> Answer:
    """``data`` is ``{"id": text, "signal"?: name or number}``; answers ``true`` once the job is gone."""
    data = call.data()
    job_id = data.get("id")
    if isinstance(job_id, int) and not isinstance(job_id, bool):
        job_id = str(job_id)
    if not isinstance(job_id, str) or not job_id:
        raise BuiltInError("kill needs data with the 'id' of a job")
    if job_id == call.command.id:
        raise BuiltInError(f"job '{job_id}' is this kill itself")
    number = data.get("signal")
    try:
        wanted = None if number is None else parse_signal(number)
    except SignalError as error:
        raise BuiltInError(str(error)) from error
    problem = call.agent.admission.kill(job_id, wanted)
    if problem is not None:
        raise BuiltInError(problem)
    return answer(True)


@command("killall")
def killall(call: Call) -> Answer:
    """Ends the current run of every job but itself; answers ``true`` once all were asked. Each reports its own end."""
    call.agent.admission.kill_all(call.command.id)
    return answer(True)


@command("restart")
def restart(call: Call) -> Answer:
    """Answers ``true``; once that is in the spool, the version now installed goes on in the agent's place."""
    return replace(answer(True), after_report=call.agent.restart)


@command("reboot")
def reboot(call: Call) -> Answer:
    """Answers ``true`` and reboots the machine, only where ``main.allow_reboot`` says so."""
    if not call.agent.settings().main.allow_reboot:
        raise BuiltInError("reboot is not allowed here (main.allow_reboot = true permits it)")
    return replace(answer(True), after_report=call.agent.reboot)
