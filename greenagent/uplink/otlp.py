"""Log lines by OTLP over HTTP with JSON, as a collector of OpenTelemetry takes them (opentelemetry.io/docs/specs/otlp).

64-bit numbers are texts there, enumerations numbers. What is absent is left out: receivers take that as empty.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from greenagent import __version__
from greenagent.uplink.answer import Answer
from greenagent.uplink.encoding import Encoding, Form, Rejection, encode
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


class OtlpEncoding(Encoding):
    """For the agent ``gid``/``nid``; what was written under another address is sent as that agent's."""

    def __init__(self, gid: int, nid: int) -> None:
        self._address = f"{gid}/{nid}"

    def lines(self, address: str = "") -> Form:
        head, tail = _envelope(address or self._address, "resourceLogs", "scopeLogs", "logRecords")
        return Form(
            "/v1/logs",
            lambda bodies: head + b",".join(bodies) + tail,
            rejection=partial(_rejection, field="rejectedLogRecords"),
        )

    def line(self, record: Mapping[str, Any]) -> bytes:
        level, nanoseconds = record["level"], str(record["epoch_ms"] * _NANOSECONDS)
        entry = {
            "timeUnixNano": nanoseconds,
            "observedTimeUnixNano": nanoseconds,
            "severityNumber": SEVERITIES.get(level, 0),
            "severityText": levels.NAMES.get(level, str(level)),
            "body": {"stringValue": record["data"]},
            "attributes": _attributes(
                {
                    "job.id": record["jobid"],
                    "job.domain": record["domain"],
                    "job.name": record["name"],
                    "message.id": record["id"],
                    "message.level": level,
                    "log.iostream": STREAMS.get(level, ""),
                }
            ),
        }
        return encode(entry)


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
        found = Rejection(int(partial_success.get(field, 0)), str(partial_success.get("errorMessage", "")))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return found if found.records > 0 or found.reason else None
