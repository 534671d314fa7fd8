"""The record of one run, as table ``runs`` of the log databases has it. Plain values, for the agent and the tools."""

from __future__ import annotations

from typing import Final, NamedTuple

_OVERHEAD: Final = 150
"""Bytes of a row beside its texts, a little more than they are."""


class RunRecord(NamedTuple):
    """One run of a job as a process, or a start that failed; in the order of the table's columns.

    A job that was killed before its first run has one with ``run`` 0, whose ``started`` is when it ended.

    ``number`` is its own on this node: it rises with the start, and no other run ever has it. ``run`` counts within the
    job. ``controller`` is None for startup tasks. ``accepted``, ``started`` and ``ended`` are seconds since 1970 with
    milliseconds. ``ended`` and ``state`` are None while it runs; ``exit_code`` and ``signal`` as in a result.
    ``reason`` is what the agent says about its end, or "". ``cpu`` is seconds of processor time, ``memory`` the most
    bytes seen in use; None where that is not known.
    """

    number: int
    jobid: str
    run: int
    controller: str | None
    domain: str
    name: str
    command: str
    accepted: float
    started: float
    ended: float | None = None
    exit_code: int | None = None
    signal: str | None = None
    state: str | None = None
    reason: str = ""
    cpu: float | None = None
    memory: int | None = None

    @property
    def has_run(self) -> bool:
        """False where no process was ever started: it ended in the moment of its start, with no processor time known.

        One that ran has that, unless it was cut off, which the next start of the agent found.
        """
        return self.run > 0 and (self.cpu is not None or self.ended != self.started)

    @property
    def stored_size(self) -> int:
        """A little more than the bytes it takes in the file, letters of other scripts counted as four bytes."""
        texts = (self.jobid, self.controller or "", self.domain, self.name, self.command, self.reason)
        return _OVERHEAD + sum(len(text) * (1 if text.isascii() else 4) for text in texts)
