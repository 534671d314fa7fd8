"""A sink: what only takes, in a form of its own, by the same uploaders, cursors and outbox as a controller."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.files import read_token
from greenagent.runtime.greenlets import Supervisor, TimeSlice
from greenagent.settings.destinations import InfluxSink, Sink
from greenagent.uplink.answer import TransportError
from greenagent.uplink.delivery import Batch
from greenagent.uplink.encoding import Encoding, LineEncoding, StatisticsEncoding
from greenagent.uplink.health import UplinkMetrics
from greenagent.uplink.http import HttpClient
from greenagent.uplink.influx import CONTENT_TYPE, InfluxStatistics
from greenagent.uplink.link import Link
from greenagent.uplink.otlp import OtlpLines, OtlpStatistics
from greenagent.uplink.sources import Outbox, ResultSource
from greenagent.values.errors import GreenagentError
from greenagent.values.result import PendingBody

LINES: Final = "log"
STATISTICS: Final = "stats"
NO_USE: Final = "a sink takes none"
"""In place of an answer: results of a controller that had the name of this sink before."""


class SinkLink(Link):
    """One sink: an uploader each for lines, statistics, and dead letters that are tried again."""

    def __init__(
        self, sink: Sink, gid: int, nid: int, supervisor: Supervisor, agent_log: AgentLog, *, has_command: bool
    ) -> None:
        """``has_command``: whether keys of statistics have the command's name in them (``stats.key_layout``)."""
        url, encoding = sink.url, Encoding(OtlpLines(gid, nid), OtlpStatistics(gid, nid, has_command))
        if isinstance(sink, InfluxSink):
            parts = urlsplit(sink.url)
            url, path = f"{parts.scheme}://{parts.netloc}", f"{parts.path}?{parts.query}"
            encoding = Encoding(None, InfluxStatistics(path, has_command), CONTENT_TYPE)
        super().__init__(sink, url, (gid, nid), supervisor, agent_log, encoding)
        self._headers = SinkHeaders(sink.headers, sink.token_file, sink.token_scheme)

    def upload_retried(self, outbox: Outbox) -> None:
        """Starts sending what was refused and is to be tried again."""
        self._upload(RetriedSource(self.key, outbox, self.metrics, self._encoding, self.health.warn))

    def _open(self) -> HttpClient:
        client = super()._open()
        client.more_headers = self._headers
        return client


class SinkHeaders:
    """What every request to one sink tells besides; a token is read again when its file changes."""

    def __init__(self, headers: Mapping[str, str], token_file: Path | None, scheme: str) -> None:
        self._headers = headers
        self._token_file = token_file
        self._scheme = scheme
        self._mark: tuple[int, ...] = ()
        self._token = ""

    def __call__(self) -> Mapping[str, str]:
        """Raises TransportError where there is no token that can be read."""
        if self._token_file is None:
            return self._headers
        try:
            found = os.stat(self._token_file)
            mark = (found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode)
            if mark != self._mark:
                self._token, self._mark = read_token(self._token_file), mark
        except (GreenagentError, OSError) as error:
            if not self._token:
                reason = f"cannot read the token file {self._token_file}"
                raise TransportError("local", reason if isinstance(error, OSError) else str(error)) from error
        return {**self._headers, "Authorization": f"{self._scheme} {self._token}"}


class RetriedSource(ResultSource):
    """What waits for a sink beside its lines and statistics: dead letters that are tried again, each encoded anew.

    They were kept as a controller gets them, so they suit whatever the sink is by then.
    """

    part = "retried records"

    def __init__(
        self, sink: str, outbox: Outbox, metrics: UplinkMetrics, encoding: Encoding, say: Callable[[str], None]
    ) -> None:
        """``say`` is told of what is none of a sink's, once."""
        super().__init__(sink, outbox, metrics)
        self._encoding = encoding
        self._say = say
        self._is_said = False

    def _results(self, rows: Sequence[PendingBody]) -> Batch:
        """All rows are of one path."""
        batch = super()._results(rows)
        address, _, kind = rows[0].path.rpartition("/")
        encoding: LineEncoding | StatisticsEncoding | None = {
            LINES: self._encoding.lines,
            STATISTICS: self._encoding.statistics,
        }.get(kind)
        if encoding is None:
            for one in rows:
                self._refuse(one)
            batch.bodies = ()
            return batch
        batch.form = form = encoding.form(address.lstrip("/"))
        batch.bodies = [form.join(self._encode(encoding, one.body)) for one in rows]
        return batch

    def _encode(self, encoding: LineEncoding | StatisticsEncoding, body: bytes) -> list[bytes]:
        if isinstance(encoding, LineEncoding):
            return [encoding.encode(record) for record in json.loads(body)]
        return [encoding.encode(body, TimeSlice())]

    def _refuse(self, one: PendingBody) -> None:
        self._outbox.make_dead_letter(self._controller, one.row, 0, NO_USE)
        self._metrics.set_aside += 1
        if not self._is_said:
            self._is_said = True
            self._say(f"a record for '{one.path}' waits for it, and {NO_USE}: set aside, see greenagent-logs outbox")
