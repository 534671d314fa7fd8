"""What the log writer tells the hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from greenagent.logs.lines import Owner
from greenagent.logs.undelivered import Waiting


class Committed(NamedTuple):
    """What one transaction stored.

    ``marked``: per bit the number of lines and the least ``log_flush``, 0 for none. ``told``: the
    losses that notes in it tell of.
    """

    lines: int
    size: int
    last_seq: int
    last_id: int
    marked: dict[int, tuple[int, float]]
    told: dict[Owner, int]


class Events(NamedTuple):
    """How the writer reaches the hub; each may be called from its thread and returns at once.

    ``lost``: lines by owner, the losses that lost notes would have told of, and the reason if it is news.
    """

    committed: Callable[[Committed], None]
    lost: Callable[[dict[Owner, int], dict[Owner, int], str], None]
    recovered: Callable[[], None]
    not_sent: Callable[[Waiting, str, str], None]
    warn: Callable[[str], None]
