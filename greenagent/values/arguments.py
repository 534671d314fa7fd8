"""The run arguments of a command (protocol 2.2)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from greenagent.values.errors import CommandError, LevelError
from greenagent.values.levels import LevelSet, parse_levels

ECHOED_ARGUMENTS: Final = (
    "name",
    "domain",
    "args",
    "working_dir",
    "max_time",
    "max_restart",
    "recurring_period",
    "stats_interval",
    "loglevels",
    "loglevels_db",
    "loglevels_ac",
    "queue",
)
"""What a result echoes: the original client fails on any other key (protocol 4.1)."""

KNOWN_ARGUMENTS: Final = frozenset({*ECHOED_ARGUMENTS, "env", "log_flush", "leave_children", "restart"})

REMEMBERED: Final = -1
"""``max_time`` of a job that runs again when the agent starts (protocol 2.2)."""

ALWAYS: Final = "always"
"""``restart`` of a job that must always run: however a run ends, another follows. The originals know no ``restart``."""


@dataclass(frozen=True, slots=True)
class RunArguments:
    """The run arguments of a command (protocol 2.2).

    ``max_time`` in seconds (0 unlimited, -1 remembered), ``recurring_period`` in seconds,
    ``stats_interval`` and ``log_flush`` in seconds (0 = as configured). ``restart`` is empty or ``always``.
    Level sets are None where the logger's own default holds. ``received`` is the object as it came, without lone
    surrogates.
    """

    name: str = ""
    domain: str = ""
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[tuple[str, str], ...] = ()
    max_time: int = 0
    max_restart: int = 0
    recurring_period: int = 0
    stats_interval: int = 0
    loglevels: LevelSet | None = None
    loglevels_db: LevelSet | None = None
    loglevels_ac: LevelSet | None = None
    queue: str = ""
    log_flush: float = 0.0
    leave_children: bool = False
    restart: str = ""
    received: Mapping[str, Any] = field(default_factory=dict)

    @property
    def time_limit(self) -> int | None:
        """Seconds after which a run is ended with TIMEOUT, or None."""
        return self.max_time if self.max_time > 0 else None

    @property
    def remembered(self) -> bool:
        """True for a job that comes back when the agent starts again."""
        return self.max_time == REMEMBERED or self.recurring_period > 0 or self.must_always_run

    @property
    def must_always_run(self) -> bool:
        """True for a job that nothing but a kill ends."""
        return self.restart == ALWAYS

    @property
    def keeps_period(self) -> bool:
        """True for a recurring job that waits for its next run also where the agent was started meanwhile.

        One that is remembered besides runs at each start, as with the original (protocol 5.7).
        """
        return self.recurring_period > 0 and self.max_time != REMEMBERED

    def echo(self, stats_interval: int) -> dict[str, Any]:
        """The arguments as a result repeats them, ``stats_interval`` filled in where absent (protocol 4.1)."""
        echoed = {key: self.received[key] for key in ECHOED_ARGUMENTS if key in self.received}
        if not self.stats_interval:
            echoed["stats_interval"] = stats_interval
        return echoed


def parse_arguments(received: Any, warn: Callable[[str], None] = lambda text: None) -> RunArguments:
    """Checks run arguments (protocol 2.2). Raises CommandError naming the argument."""
    if received is None:
        received = {}
    if not isinstance(received, dict):
        raise CommandError(f"'args' must be an object, not {kind_of(received)}")
    numbers: dict[str, Any] = {
        key: _lenient_whole(received, key, warn)
        for key in ("max_time", "max_restart", "recurring_period", "stats_interval")
    }
    for key in ("max_restart", "recurring_period", "stats_interval"):
        if numbers[key] < 0:
            hint = f"; restart = '{ALWAYS}' has no limit" if key == "max_restart" else ""
            warn(f"args.{key} is negative and counts as 0{hint}")
            numbers[key] = 0
    if numbers["max_time"] < REMEMBERED:
        warn("args.max_time is below -1 and counts as 0")
        numbers["max_time"] = 0
    restart = as_text(received.get("restart"))
    if restart not in ("", ALWAYS):
        raise CommandError(f"args.restart must be '{ALWAYS}', not '{restart[:100]}'")
    for key in ("max_restart", "recurring_period"):
        if restart and numbers[key]:
            warn(f"args.{key} counts for nothing beside restart = '{ALWAYS}'")
            numbers[key] = 0
    texts: dict[str, Any] = {key: as_text(received.get(key)) for key in ("name", "domain", "working_dir", "queue")}
    for key, text in texts.items():
        if key != "name" and "\0" in text:
            raise CommandError(f"args.{key} holds a NUL character")
    return RunArguments(
        **texts,
        **numbers,
        args=_argument_list(received.get("args")),
        env=_environment(received.get("env"), warn),
        loglevels=_levels(received, "loglevels"),
        loglevels_db=_levels(received, "loglevels_db"),
        loglevels_ac=_levels(received, "loglevels_ac"),
        log_flush=_seconds(received.get("log_flush"), warn),
        leave_children=received.get("leave_children") is True,
        restart=restart,
        received=received,
    )


def kind_of(value: Any) -> str:
    """What a JSON value is, for people."""
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _lenient_whole(received: Mapping[str, Any], key: str, warn: Callable[[str], None]) -> int:
    """Any JSON number, truncated; anything else counts as 0, as in the original (protocol 2.2)."""
    value = received.get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        warn(f"args.{key} is {kind_of(value)}, not a number, and counts as 0")
        return 0
    try:
        number = int(value)
    except (OverflowError, ValueError):
        warn(f"args.{key} is not a finite number and counts as 0")
        return 0
    if number == 0 != value:
        warn(f"args.{key} is {value:g}, no whole number, and counts as 0")
    return max(-(2**31), min(number, 2**31 - 1))


def _seconds(value: Any, warn: Callable[[str], None]) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**31:
        warn("args.log_flush is not a number of seconds and counts as 0")
        return 0.0
    return float(value)


def as_text(value: Any) -> str:
    """The text form of a run argument: null is absent, numbers and flags as JSON prints them."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


def _argument_list(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise CommandError(f"args.args must be a list, not {kind_of(value)}")
    return tuple(as_text(item) for item in value)


def _environment(value: Any, warn: Callable[[str], None]) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if isinstance(value, dict):
        pairs = [(key, as_text(item)) for key, item in value.items()]
    elif isinstance(value, list):
        pairs = []
        for item in value:
            key, equals, text = as_text(item).partition("=")
            if equals:
                pairs.append((key, text))
            else:
                warn("args.env holds an item without '=', which is left out")
    else:
        raise CommandError(f"args.env must be a list of KEY=VALUE, not {kind_of(value)}")
    for key, text in pairs:
        if not key or "=" in key or "\0" in key or "\0" in text:
            raise CommandError(f"args.env holds the impossible name or value {key!r}")
    return tuple(pairs)


def _levels(received: Mapping[str, Any], key: str) -> LevelSet | None:
    try:
        return parse_levels(received.get(key))
    except LevelError as error:
        raise CommandError(f"args.{key}: {error}") from error
