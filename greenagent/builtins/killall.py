"""``killall``: ends the current run of every job but itself (protocol 5.6; design, section 5)."""

from __future__ import annotations

from typing import Protocol

from greenagent.builtins.call import Answer, BuiltIn, Call, answer


class KillsAll(Protocol):
    def kill_all(self, spare: str) -> int:
        """Asks every job but ``spare`` to end its run; returns how many."""
        ...


def killall(jobs: KillsAll) -> BuiltIn:
    """Answers ``true`` as soon as all were asked; each job reports its own end."""

    def run(call: Call) -> Answer:
        jobs.kill_all(call.command.id)
        return answer(True)

    return run
