"""``restart`` and ``reboot``: answer first, then act (protocol 9, 13.1)."""

from __future__ import annotations

from collections.abc import Callable

from greenagent.builtins.call import Answer, BuiltIn, BuiltInError, Call, answer


def restart(begin: Callable[[], None]) -> BuiltIn:
    """Answers ``true``; once that is in the ledger the agent stops its jobs, flushes, and starts anew in place."""

    def run(call: Call) -> Answer:
        return Answer(answer(True).data, after_report=begin)

    return run


def reboot(allowed: Callable[[], bool], begin: Callable[[], None]) -> BuiltIn:
    """Answers ``true`` and reboots the machine, only where ``main.allow_reboot`` says so."""

    def run(call: Call) -> Answer:
        if not allowed():
            raise BuiltInError("reboot is not allowed here (main.allow_reboot = true permits it)")
        return Answer(answer(True).data, after_report=begin)

    return run
