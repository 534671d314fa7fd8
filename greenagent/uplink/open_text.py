"""Shows a controller of ours what jobs have begun to print and not ended: a prompt, a progress bar.

The whole line comes by the uploader of its logger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from greenagent.uplink.changes import OPEN_TEXT, ChangeReporter
from greenagent.uplink.health import ControllerHealth
from greenagent.uplink.http import HttpClient

SHOWN: Final = 4096
"""Characters of a text that are sent, its end."""

Key = tuple[str, int]
"""Job id and stream."""


class OpenLine(Protocol):
    """The end of a text that a stream has begun (logs.lines)."""

    @property
    def owner(self) -> Any: ...
    @property
    def epoch(self) -> float: ...
    @property
    def level(self) -> int: ...
    @property
    def data(self) -> str: ...


class OpenTexts(Protocol):
    """What is open just now (logs.write.open_lines)."""

    version: int

    def of(self, marks: int) -> Mapping[Key, OpenLine]: ...

    def wait(self, seen: int, timeout: float) -> None: ...


class OpenTextReporter(ChangeReporter):
    """Of the texts that the loggers of one controller want."""

    header = OPEN_TEXT
    path = "open_text"

    def __init__(self, texts: OpenTexts, marks: int, client: HttpClient, health: ControllerHealth) -> None:
        """``marks``: the bits of the pairs of this controller's loggers."""
        super().__init__(client, health)
        self._texts = texts
        self._marks = marks

    def version(self) -> int:
        return self._texts.version

    def wait(self, seen: int, timeout: float) -> None:
        self._texts.wait(seen, timeout)

    def found(self) -> Mapping[Key, OpenLine]:
        return self._texts.of(self._marks)

    def record(self, key: Key, value: OpenLine | None) -> dict[str, Any]:
        place = {"jobid": key[0], "stream": key[1]}
        if value is None:
            return place
        names = {"domain": value.owner.domain, "name": value.owner.name}
        text = {"level": value.level, "epoch_ms": int(value.epoch * 1000), "data": value.data[-SHOWN:]}
        return {**place, **names, **text}
