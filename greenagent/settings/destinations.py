"""Where the agent sends to: controllers, which also give commands, and sinks, which only take.

Declared as in ``models``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

from greenagent.settings.schema import (
    AUTOMATIC,
    LEVELS,
    PATH,
    REQUIRED,
    SECONDS,
    TEXT,
    TEXT_TABLE,
    TEXTS,
    WHOLE,
    Section,
    Setting,
    at_least,
    each_of,
    http_headers,
    http_url,
    influx_url,
    one_of,
    otlp_url,
    setting,
)
from greenagent.values.levels import LevelSet

LINES: Final = "logs"
STATISTICS: Final = "statistics"
CONTENTS: Final = (LINES, STATISTICS)
"""What a sink may be sent."""


@dataclass(frozen=True, slots=True)
class SecuritySettings:
    """TLS towards this controller. Files are PEM; an empty text counts as not given."""

    section: ClassVar = Section("controllers.<key>.security")
    client_certificate: Path | None = setting(PATH, "", "The agent's certificate, with its chain.", live=True)
    client_certificate_key: Path | None = setting(
        PATH, "", "The private key of that certificate, without password.", live=True
    )
    certificate_authority: Path | None = setting(PATH, "", "An authority to trust beside the system's.", live=True)


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """A controller. Other sections call it by its key."""

    section: ClassVar = Section("controllers.<key>", live=True)
    key: str
    url: str = setting(TEXT, REQUIRED, "Base URL, http or https; it may carry a path.", http_url, live=True)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    rerun_ended: str = setting(
        AUTOMATIC,
        "auto",
        "Whether a command equal to one that has ended runs again, as with the original agents; else its result is "
        "sent once more. auto: not once this controller has asked for acknowledgements, since it may deliver again.",
        one_of("auto", "true", "false"),
        live=True,
    )


@dataclass(frozen=True, slots=True)
class SinkSecurity(SecuritySettings):
    """TLS towards this sink, as towards a controller."""

    section: ClassVar = Section("sinks.<name>.security")


@dataclass(frozen=True, slots=True)
class OtlpSink:
    """A sink: what takes log lines and statistics by OTLP over HTTP with JSON, such as an OpenTelemetry collector. It
    needs no logger: what it gets is said here, and no run argument changes it. Lines of startup tasks are among them.
    What it looks like there: logs.md, statistics.md.
    """

    section: ClassVar = Section("sinks.<name>", "otlp", live=True)
    token_scheme: ClassVar = "Bearer"
    key: str
    url: str = setting(
        TEXT, REQUIRED, "Base URL, http or https; /v1/logs and /v1/metrics are added to it.", otlp_url, live=True
    )
    sends: tuple[str, ...] = setting(
        TEXTS,
        [],
        f"What goes there, of {', '.join(CONTENTS)}. Empty: both. Loki takes logs alone.",
        each_of(*CONTENTS),
        live=True,
    )
    levels: LevelSet | None = setting(
        LEVELS, [], "Which message levels it gets, as for a logger. Empty: all.", live=True
    )
    flush_int: float = setting(SECONDS, 5, "A batch goes out this often.", at_least(0.1), "seconds", live=True)
    batch_size: int = setting(WHOLE, 1000, "A batch goes out when it is this long.", at_least(1), "messages", live=True)
    token_file: Path | None = setting(
        PATH, "", "A file with one word, sent as `Authorization: Bearer WORD`; read again when it changes.", live=True
    )
    headers: dict[str, str] = setting(
        TEXT_TABLE, {}, "Further headers of each request, such as X-Scope-OrgID.", http_headers, live=True, secret=True
    )
    security: SinkSecurity = field(default_factory=SinkSecurity)

    @property
    def takes_lines(self) -> bool:
        return not self.sends or LINES in self.sends

    @property
    def takes_statistics(self) -> bool:
        return not self.sends or STATISTICS in self.sends


@dataclass(frozen=True, slots=True)
class InfluxSink:
    """A sink that takes statistics as InfluxDB's line protocol, with the names and tags of the original controller:
    InfluxDB, and Telegraf, VictoriaMetrics and others. What it looks like there: statistics.md.
    """

    section: ClassVar = Section("sinks.<name>", "influx", live=True)
    token_scheme: ClassVar = "Token"
    key: str
    url: str = setting(
        TEXT,
        REQUIRED,
        "The whole URL of its endpoint: http://HOST:8086/write?db=NAME, or of version 2 "
        "http://HOST:8086/api/v2/write?org=NAME&bucket=NAME.",
        influx_url,
        live=True,
    )
    token_file: Path | None = setting(
        PATH, "", "A file with one word, sent as `Authorization: Token WORD`; read again when it changes.", live=True
    )
    headers: dict[str, str] = setting(
        TEXT_TABLE, {}, "Further headers of each request.", http_headers, live=True, secret=True
    )
    security: SinkSecurity = field(default_factory=SinkSecurity)

    @property
    def takes_statistics(self) -> bool:
        return True


Sink = OtlpSink | InfluxSink
SINKS: Final = (OtlpSink, InfluxSink)
SINK_TYPE: Final = Setting(
    TEXT, REQUIRED, "otlp or influx.", one_of(*(model.section.variant for model in SINKS), any_case=True)
)
