"""What agents send of their jobs, in Redis, within stated caps: lines, what has begun to print, figures."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, Final

from greenagent.controller.fleet.connection import Command, FleetRedis, compact, key_of
from greenagent.controller.json_parts import json_list, json_object
from greenagent.controller.limits import Limits
from greenagent.controller.model import AgentKey, parse_key
from greenagent.controller.state.log_lines import LINE_OVERHEAD, MAX_SHOWN, TURN, Line, Record
from greenagent.controller.state.metrics import Dropped, Point
from greenagent.controller.state.open_texts import KEPT_FOR, OpenText, Shown
from greenagent.runtime.greenlets import give_way

LINE_NUMBERS: Final = key_of("line-numbers")
LINE_SIZES: Final = key_of("line-sizes")
RUN: Final = key_of("run")
DAY: Final = 86_400
"""Seconds for which figures of an agent are kept that sends none any more."""


def _lines_key(jobid: str) -> str:
    return key_of("lines", jobid)


class FleetLines:
    """See ``state.log_lines.LineStore``. A line is a member of its job's sorted set, by its number.

    Sent again it is the same member, and stays where it was.
    """

    def __init__(self, redis: FleetRedis, limits: Limits) -> None:
        self._redis = redis
        self._limits = limits
        redis.pipeline([("SET", RUN, uuid.uuid4().hex, "NX")])
        self.run: str = redis.run("GET", RUN)
        """The same for all processes, and after a restart: numbers go on."""

    def take(self, key: AgentKey, records: list[Record], has_part: Callable[[str], bool | None]) -> set[str]:
        jobs: dict[str, list[Record]] = {}
        for record in records:
            jobs.setdefault(record.jobid, []).append(record)
        touched: set[str] = set()
        for jobid, lines in jobs.items():
            part = has_part(jobid)
            if part is False:
                continue  # a job's owner is not told of what others say in its name
            if part:
                touched.add(jobid)
            for first in range(0, len(lines), TURN):
                self._add(jobid, [compact([*key, *record]) for record in lines[first : first + TURN]])
                give_way()
        return touched

    def _add(self, jobid: str, members: list[str]) -> None:
        name, last = _lines_key(jobid), self._redis.run("INCRBY", LINE_NUMBERS, len(members))
        scored = (part for number, member in enumerate(members, last - len(members) + 1) for part in (number, member))
        size = sum(map(len, members)) + LINE_OVERHEAD * len(members)
        most = self._limits.log_lines_per_job
        _, dropped, _, _ = self._redis.pipeline(
            [
                ("ZADD", name, "NX", *scored),
                ("ZREMRANGEBYRANK", name, 0, -most - 1),
                ("EXPIRE", name, int(self._limits.keep_for)),
                ("HINCRBY", LINE_SIZES, jobid, size),
            ]
        )
        if dropped:
            self._redis.pipeline([("HINCRBY", key_of("lines-dropped"), jobid, dropped)])

    def read(
        self, jobid: str, after: int, limit: int, agents: Container[AgentKey | None] | None = None
    ) -> tuple[list[Line], int]:
        members, dropped = self._redis.pipeline(
            [
                ("ZRANGEBYSCORE", _lines_key(jobid), f"({after}", "+inf", "WITHSCORES", "LIMIT", 0, limit),
                ("HGET", key_of("lines-dropped"), jobid),
            ]
        )
        found: list[Line] = []
        left = MAX_SHOWN
        for member, number in members:
            gid, nid, *record = json.loads(member)
            line = Line(int(number), AgentKey(gid, nid), Record(*record))
            if agents is not None and line.key not in agents:
                continue
            left -= line.size
            if left < 0 and found:
                break
            found.append(line)
            give_way()
        return found, int(dropped or 0)

    def knows(self, jobid: str) -> bool:
        return bool(self._redis.run("EXISTS", _lines_key(jobid)))

    def trim(self) -> None:
        """Above the cap the lines of whole jobs go, those of which the newest line is oldest first."""
        sizes = {jobid: int(size) for jobid, size in self._redis.run("HGETALL", LINE_SIZES).items()}
        newest = self._redis.pipeline(("ZRANGE", _lines_key(jobid), -1, -1, "WITHSCORES") for jobid in sizes)
        last = {jobid: found[0][1] for jobid, found in zip(sizes, newest, strict=True) if found}
        gone = set(sizes) - set(last)
        total = sum(size for jobid, size in sizes.items() if jobid in last)
        for jobid in sorted(last, key=lambda one: last[one]):
            if total <= self._limits.log_bytes:
                break
            total -= sizes[jobid]
            gone.add(jobid)
        if gone:
            self._redis.pipeline(
                [
                    ("DEL", *map(_lines_key, gone)),
                    ("HDEL", LINE_SIZES, *gone),
                    ("HDEL", key_of("lines-dropped"), *gone),
                ]
            )


class FleetOpenTexts:
    """See ``state.open_texts.OpenTextStore``. What is not shown again goes by itself."""

    def __init__(self, redis: FleetRedis) -> None:
        self._redis = redis

    def take(self, key: AgentKey, shown: Iterable[Shown], has_part: Callable[[str], bool | None]) -> set[str]:
        touched: set[str] = set()
        commands: list[Command] = []
        for jobid, stream, record in shown:
            if not has_part(jobid):
                continue
            touched.add(jobid)
            name, field = key_of("open", jobid), f"{key}:{stream}"
            if record is None:
                commands.append(("HDEL", name, field))
            else:
                commands.append(("HSET", name, field, compact([time.time(), *record])))
                commands.append(("EXPIRE", name, int(KEPT_FOR)))
        self._redis.pipeline(commands)
        return touched

    def of(self, jobid: str, agents: Iterable[AgentKey]) -> list[OpenText]:
        wanted = set(agents)
        found = []
        for field, text in sorted(self._redis.run("HGETALL", key_of("open", jobid)).items()):
            name, _, stream = field.rpartition(":")
            stamp, *record = json.loads(text)
            key, age = parse_key(name), time.time() - stamp
            if key in wanted and age < KEPT_FOR:
                found.append(OpenText(key, int(stream), Record(*record), time.monotonic() - age))
        return found


class FleetMetrics:
    """See ``state.metrics.LatestMetrics``: a hash for each agent."""

    def __init__(self, redis: FleetRedis, limits: Limits) -> None:
        self._redis = redis
        self._limits = limits
        self._dropped = Dropped()

    def take(self, key: AgentKey, points: list[Point]) -> None:
        name = key_of("stats", key)
        newest: dict[str, Point] = {}
        for point in points:
            if point.name not in newest or newest[point.name].stamp <= point.stamp:
                newest[point.name] = point
        if not newest:
            return
        known, count = self._redis.pipeline([("HMGET", name, *newest), ("HLEN", name)])
        left = self._limits.metrics_per_agent - count
        fields: list[Any] = []
        for point, text in zip(newest.values(), known, strict=True):
            old = json.loads(text) if text is not None else None
            if old is None:
                left -= 1
                if left < 0:
                    self._dropped.add(key, 1)
                    continue
            if old is None or point.stamp >= old[0]:
                interval = 0 if old is None else point.stamp - old[0] or old[2]
                fields += (point.name, compact([point.stamp, point.value, interval]))
        stored: list[Command] = [("HSET", name, *fields)] if fields else []
        self._redis.pipeline([*stored, ("EXPIRE", name, DAY), ("ZADD", key_of("stats"), time.time(), str(key))])

    def newly_dropped(self) -> dict[AgentKey, int]:
        return self._dropped.newly()

    def describe(self) -> Iterator[str]:
        received = self._redis.run("ZRANGE", key_of("stats"), 0, -1, "WITHSCORES")
        whose = sorted((parse_key(name), stamp) for name, stamp in received if time.time() - stamp < DAY)
        return json_list(self._describe(key, stamp) for key, stamp in whose)

    def _describe(self, key: AgentKey, stamp: float) -> Iterator[str]:
        figures = self._redis.run("HGETALL", key_of("stats", key))
        shown = {}
        for name, text in figures.items():
            figure, value, interval = json.loads(text)
            shown[name] = {"timestamp": figure, "value": value, "interval": interval or None}
        return json_object({**key.to_wire(), "received": stamp}, figures=[json.dumps(shown)])

    def trim(self) -> None:
        """Forgets agents that send nothing any more."""
        self._redis.run("ZREMRANGEBYSCORE", key_of("stats"), 0, time.time() - DAY)
