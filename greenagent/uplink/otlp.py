"""Log lines and statistics by OTLP over HTTP with JSON: opentelemetry.io/docs/specs/otlp.

64-bit numbers are texts there, enumerations numbers. What is absent is left out: receivers take that as empty.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Final

from greenagent import __version__
from greenagent.uplink.answer import Answer
from greenagent.uplink.encoding import Form, LineEncoding, Rejection, StatisticsEncoding, encode, points
from greenagent.values import levels

INFO: Final = 9
WARN: Final = 13
ERROR: Final = 17
FATAL: Final = 21
DEBUG: Final = 5
SEVERITIES: Final[Mapping[int, int]] = {
    **dict.fromkeys(levels.NAMES, INFO),
    levels.STDERR: WARN,
    levels.WARNING: WARN,
    levels.OPERATIONS_ERROR: ERROR,
    levels.CRITICAL: FATAL,
    levels.STATISTICS: DEBUG,
    levels.DEBUG: DEBUG,
}
"""The severityNumber of a level; a level without a name of ours has none."""
STREAMS: Final[Mapping[int, str]] = {levels.STDOUT: "stdout", levels.STDERR: "stderr"}
_NANOSECONDS: Final = 1_000_000
"""In a millisecond."""


class OtlpLines(LineEncoding):
    """Lines of the agent ``gid``/``nid``; those written under another address are sent as that agent's."""

    def __init__(self, gid: int, nid: int) -> None:
        self._address = f"{gid}/{nid}"

    def form(self, address: str = "") -> Form:
        head, tail = _envelope(address or self._address, "resourceLogs", "scopeLogs", "logRecords")
        return Form(
            "/v1/logs",
            lambda bodies: head + b",".join(bodies) + tail,
            rejection=partial(_rejection, field="rejectedLogRecords"),
        )

    def encode(self, record: Mapping[str, Any]) -> bytes:
        severity, of_level = _of_level(record["level"])
        # Lines of one millisecond are many, and readers sort by time alone: below it stands the message's number.
        nanoseconds = record["epoch_ms"] * _NANOSECONDS + record["id"] % _NANOSECONDS
        of_message = f'{{"key":"message.id","value":{{"intValue":"{record["id"]}"}}}}'
        parts = (_of_job(record["jobid"], record["domain"], record["name"]), of_level, of_message)
        return (
            f'{{"timeUnixNano":"{nanoseconds}","observedTimeUnixNano":"{nanoseconds}",{severity},'
            f'"body":{{"stringValue":{json.dumps(record["data"])}}},'
            f'"attributes":[{",".join(filter(None, parts))}]}}'
        ).encode()


@lru_cache(maxsize=256)
def _of_job(job_id: str, domain: str, name: str) -> str:
    """The attributes that all lines of a job have: made once, since each takes longer than all else of a line."""
    return _members(_attributes({"job.id": job_id, "job.domain": domain, "job.name": name}))


@lru_cache(maxsize=256)
def _of_level(level: int) -> tuple[str, str]:
    """Severity and attributes of a level, likewise."""
    severity = {"severityNumber": SEVERITIES.get(level, 0), "severityText": levels.NAMES.get(level, str(level))}
    attributes = _attributes({"message.level": level, "log.iostream": STREAMS.get(level, "")})
    return _members(severity), _members(attributes)


def _members(value: Any) -> str:
    """A JSON list or object without its brackets."""
    return encode(value).decode()[1:-1]


class OtlpStatistics(StatisticsEncoding):
    """Values per interval as gauges, whatever they are of: what a job sent as a counter is what it rose by."""

    def __init__(self, gid: int, nid: int, has_command: bool) -> None:
        """``has_command``: as for ``points``."""
        self._address = f"{gid}/{nid}"
        self._has_command = has_command

    def form(self, address: str = "") -> Form:
        head, tail = _envelope(address or self._address, "resourceMetrics", "scopeMetrics", "metrics")
        return Form(
            "/v1/metrics",
            lambda bodies: head + b",".join(bodies) + tail,
            # A quote within a key has a backslash before it.
            lambda body: body.count(b'"asDouble":'),
            partial(_rejection, field="rejectedDataPoints"),
        )

    def encode(self, body: bytes, pause: Callable[[], None]) -> bytes:
        metrics = []
        for point in points(body, self._has_command):
            data = {
                "attributes": _attributes({"job.cmd": point.cmd, "job.domain": point.domain, "job.name": point.name}),
                "timeUnixNano": str(point.stamp * 1000 * _NANOSECONDS),
                "asDouble": point.value,
            }
            metrics.append(encode({"name": point.key, "gauge": {"dataPoints": [data]}}))
            pause()
        return b",".join(metrics)


def _envelope(address: str, *names: str) -> tuple[bytes, bytes]:
    """What stands before and behind the records of one request. ``names``: of the three lists, from outside."""
    gid, nid = address.split("/")
    resource: dict[str, str | int] = {
        "service.name": "greenagent",
        "service.version": __version__,
        "service.instance.id": f"{gid}:{nid}",
        "host.name": os.uname().nodename,
        "greenagent.gid": int(gid),
        "greenagent.nid": int(nid),
    }
    outer, middle, inner = names
    scope = {"scope": {"name": "greenagent", "version": __version__}, inner: []}
    text = encode({outer: [{"resource": {"attributes": _attributes(resource)}, middle: [scope]}]})
    head, empty, tail = text.rpartition(b"[]")
    return head + empty[:1], empty[1:] + tail


def _attributes(values: Mapping[str, str | int]) -> list[dict[str, Any]]:
    """Texts and whole numbers; empty texts are left out."""
    return [
        {"key": key, "value": {"stringValue": value} if isinstance(value, str) else {"intValue": str(value)}}
        for key, value in values.items()
        if value != ""
    ]


def _rejection(answer: Answer, field: str) -> Rejection | None:
    """What a partial success rejects; with a message and no record it is a remark of the sink."""
    try:
        partial_success = json.loads(answer.body)["partialSuccess"]
        found = Rejection(max(0, int(partial_success.get(field, 0))), str(partial_success.get("errorMessage", "")))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return found if found.records or found.reason else None
