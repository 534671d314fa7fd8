"""A sink for tests: takes OTLP and line protocol over real HTTP, and misbehaves as a recording controller does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from tests.support.recording_controller import Behaviour, Post, RecordingController, status

LOGS = "/v1/logs"
METRICS = "/v1/metrics"
WRITE = "/write?db=main"


class RecordingSink(RecordingController):
    """Endpoints are whole paths, such as ``/v1/logs``; any other is answered 404."""

    endpoints = (LOGS, METRICS, WRITE)

    def _application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        headers = {key[5:].replace("_", "-").title(): value for key, value in environ.items() if key[:5] == "HTTP_"}
        headers["Content-Type"] = environ.get("CONTENT_TYPE", "")
        query = environ["QUERY_STRING"]
        path = environ["PATH_INFO"] + (f"?{query}" if query else "")
        post = Post(path, 0, 0, self._read_body(environ["wsgi.input"]), headers)
        return self._answered(environ["greenagent.handler"], start_response, None, post)

    def _behaviour(self, endpoint: str, body: bytes) -> Behaviour | None:
        return super()._behaviour(endpoint, body) or (None if endpoint in self.endpoints else status(404))

    def _judge(self, post: Post) -> tuple[int, bytes]:
        is_influx = post.endpoint == WRITE
        wanted = "text/plain; charset=utf-8" if is_influx else "application/json"
        if post.headers["Content-Type"] != wanted:
            return 415, b"{}"
        return (204, b"") if is_influx else (200, b"{}")

    @property
    def records(self) -> list[dict[str, Any]]:
        """Accepted log records, in order of arrival."""
        return [record for post in self.posts if post.endpoint == LOGS for record in records_of(post.value)]

    @property
    def texts(self) -> list[str]:
        return [record["body"]["stringValue"] for record in self.records]

    @property
    def points(self) -> list[tuple[str, int, float]]:
        """Accepted points: name, nanoseconds since 1970, value."""
        return [
            (metric["name"], int(point["timeUnixNano"]), point["asDouble"])
            for post in self.posts
            if post.endpoint == METRICS
            for resource in post.value["resourceMetrics"]
            for scope in resource["scopeMetrics"]
            for metric in scope["metrics"]
            for point in metric["gauge"]["dataPoints"]
        ]

    @property
    def lines(self) -> list[str]:
        """Accepted lines of line protocol."""
        return [line for post in self.posts if post.endpoint == WRITE for line in post.body.decode().split("\n")]


def records_of(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The log records of one request."""
    return [
        record
        for resource in request["resourceLogs"]
        for scope in resource["scopeLogs"]
        for record in scope["logRecords"]
    ]


def attributes(part: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a record or resource: texts, and whole numbers, which are texts on the wire."""
    found: dict[str, Any] = {}
    for one in part["attributes"]:
        ((kind, value),) = one["value"].items()
        assert isinstance(value, str), one
        assert kind in ("stringValue", "intValue"), one
        found[one["key"]] = int(value) if kind == "intValue" else value
    return found


def partial_success(field: str, count: int, message: str) -> Behaviour:
    """Takes a request but for so many of its records."""
    body = {"partialSuccess": {field: str(count), "errorMessage": message}}
    return status(200, {}, json.dumps(body).encode())
