"""What jobs have begun to print and not ended, as their agents show it, kept in memory within stated caps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from sys import getsizeof
from typing import Any, Final, NamedTuple

from greenagent.controller.json_parts import json_object, json_text
from greenagent.controller.limits import Limits
from greenagent.controller.model import AgentKey
from greenagent.controller.state.log_lines import Record, parse_records

OVERHEAD: Final = 1500
"""Bytes a kept text costs beside its texts."""
KEPT_FOR: Final = 150.0
"""Seconds after which a text goes that its agent, which sends all once a minute, has not shown again."""
STREAMS: Final = (1, 2)


class OpenText(NamedTuple):
    """The end of what a stream of a job has begun; ``record`` is that of a line without an id."""

    key: AgentKey
    stream: int
    record: Record
    received: float
    """Monotonic time."""

    def to_json(self) -> Iterator[str]:
        """Parts of its JSON text."""
        record = self.record._asdict()
        data = record.pop("data")
        del record["id"]
        return json_object({**self.key.to_wire(), "stream": self.stream, **record}, data=json_text(data))

    @property
    def size(self) -> int:
        record = self.record
        return OVERHEAD + getsizeof(record.data) + getsizeof(record.domain) + getsizeof(record.name)


class Shown(NamedTuple):
    """What an agent says of one stream; ``record`` is None where nothing is open any more."""

    jobid: str
    stream: int
    record: Record | None


class OpenTextStore:
    """The newest of all agents."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._agents: dict[AgentKey, dict[tuple[str, int], OpenText]] = {}
        self._bytes: dict[AgentKey, int] = {}

    def take(self, key: AgentKey, shown: Iterable[Shown], has_part: Callable[[str], bool | None]) -> set[str]:
        """Returns the jobs of which something came. Of jobs that the agent has no part in nothing is taken."""
        touched: set[str] = set()
        now = time.monotonic()
        for jobid, stream, record in shown:
            if not has_part(jobid):
                continue
            touched.add(jobid)
            self._set(key, (jobid, stream), OpenText(key, stream, record, now) if record is not None else None)
        while sum(self._bytes.values()) > self._limits.open_text_bytes:
            self._drop(max(self._bytes, key=lambda one: self._bytes[one]))
        return touched

    def of(self, jobid: str, agents: Iterable[AgentKey]) -> list[OpenText]:
        """What is open of a job on these agents."""
        found = (self._agents.get(key, {}).get((jobid, stream)) for key in agents for stream in STREAMS)
        return [one for one in found if one is not None]

    def forget_old(self) -> None:
        """Drops what was not shown again for long: its agent is gone, or was not able to say that it has ended."""
        before = time.monotonic() - KEPT_FOR
        for key, texts in list(self._agents.items()):
            for place in [place for place, one in texts.items() if one.received < before]:
                self._set(key, place, None)

    def _set(self, key: AgentKey, place: tuple[str, int], text: OpenText | None) -> None:
        texts = self._agents.setdefault(key, {})
        old = texts.pop(place, None)
        if text is not None:
            texts[place] = text
        size = self._bytes.get(key, 0) - (old.size if old else 0) + (text.size if text else 0)
        if texts:
            self._bytes[key] = size
        else:
            self._drop(key)

    def _drop(self, key: AgentKey) -> None:
        self._agents.pop(key, None)
        self._bytes.pop(key, None)


def parse_open_texts(received: Any) -> list[Shown] | None:
    """What an agent posted; None when it is no list of objects with a job's id and a stream."""
    records = parse_records(received)
    if records is None or len(records) != len(received):
        return None
    found = []
    for one, record in zip(received, records, strict=True):
        stream = one.get("stream")
        if stream not in STREAMS:
            return None
        found.append(Shown(record.jobid, stream, record if record.data else None))
    return found
