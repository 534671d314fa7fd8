"""``ping``: answers at once, also when every slot is taken (protocol 9)."""

from __future__ import annotations

from greenagent.builtins.call import Answer, Call, answer


def ping(call: Call) -> Answer:
    """The text ``"pong"``, quoted, as JSON has it."""
    return answer("pong")
