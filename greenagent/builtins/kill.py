"""``kill``: ends a job, or sends it one signal (protocol 9; design, section 5 "Ending")."""

from __future__ import annotations

from typing import Protocol

from greenagent.builtins.call import Answer, BuiltIn, BuiltInError, Call, answer
from greenagent.values.errors import SignalError
from greenagent.values.signals import parse_signal


class Killer(Protocol):
    def kill(self, job_id: str, number: int | None = None) -> str | None:
        """Ends a job (or signals it); returns what went wrong, None when all is well."""
        ...


def kill(jobs: Killer) -> BuiltIn:
    """``data`` is ``{"id": text, "signal"?: name or number}``; answers ``true`` once the job is gone."""

    def run(call: Call) -> Answer:
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
        problem = jobs.kill(job_id, wanted)
        if problem is not None:
            raise BuiltInError(problem)
        return answer(True)

    return run
