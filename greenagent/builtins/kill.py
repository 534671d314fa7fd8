"""``kill``: ends a job, or sends it one signal (protocol 9; design section 5 "Ending")."""

from __future__ import annotations

import signal
from typing import Protocol

from greenagent.builtins.call import Answer, BuiltIn, BuiltInError, Call, answer


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
        problem = jobs.kill(job_id, None if number is None else parse_signal(number))
        if problem is not None:
            raise BuiltInError(problem)
        return answer(True)

    return run


def parse_signal(value: object) -> int:
    """A signal by name (with or without SIG) or number. Raises BuiltInError."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise BuiltInError("'signal' must be a name or a number")
    text = str(value).strip().upper()
    try:
        if text.isdecimal():
            return _known_number(int(text))
        return int(signal.Signals[text if text.startswith("SIG") else "SIG" + text])
    except (ValueError, KeyError) as error:
        raise BuiltInError(f"there is no signal {value!r}") from error


def _known_number(number: int) -> int:
    """Real-time signals have numbers without a name. Raises ValueError."""
    if not 0 < number < signal.NSIG:
        raise ValueError(number)
    return number
