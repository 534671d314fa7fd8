"""``get_cpu_info`` (protocol 9): one object per logical processor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_PROCESSOR = re.compile(r"processor\s*([0-9]+)?\s*:\s*(.*)\Z")

Fields = dict[str, str]


def cpu_info(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> list[dict[str, Any]]:
    """What /proc/cpuinfo tells of each processor; what an architecture does not tell is empty or 0.

    ``mhz`` is the present frequency, ``cache_size`` is in KB. Raises OSError without /proc/cpuinfo.
    """
    text = (proc / "cpuinfo").read_text("utf-8", "replace")
    processors, common = _parse(text)
    return [_describe(number, {**common, **fields}, sys) for number, fields in processors]


def _parse(text: str) -> tuple[list[tuple[int, Fields]], Fields]:
    """The processors, and the fields that stand before or behind all of them (ARM, s390, POWER)."""
    processors: list[tuple[int, Fields]] = []
    common: Fields = {}
    current = common
    for line in text.splitlines():
        if not line.strip():
            current = common
            continue
        match = _PROCESSOR.match(line)
        if match is not None and (match.group(1) is not None or match.group(2).isdigit()):
            number = int(match.group(1) if match.group(1) is not None else match.group(2))
            current = {}
            processors.append((number, current))
            if match.group(1) is not None:  # s390: "processor 0: version = FF, identification = 123"
                for part in match.group(2).split(","):
                    name, _, value = part.partition("=")
                    current[name.strip()] = value.strip()
            continue
        name, colon, value = line.partition(":")
        if colon:
            current[name.strip()] = value.strip()
    return processors, common


def _describe(number: int, fields: Fields, sys: Path) -> dict[str, Any]:
    folder = sys / "devices/system/cpu" / f"cpu{number}"
    return {
        "cpu": number,
        "vendor_id": _first(fields, "vendor_id", "CPU implementer"),
        "family": _first(fields, "cpu family", "CPU architecture"),
        "model": _first(fields, "model", "CPU part", "machine"),
        "stepping": _whole(_first(fields, "stepping", "CPU revision")),
        "physical_id": _first(fields, "physical id") or _topology(folder, "physical_package_id"),
        "core_id": _first(fields, "core id") or _topology(folder, "core_id"),
        "cores": _whole(_first(fields, "cpu cores")) or 1,
        "model_name": _first(fields, "model name", "cpu", "Processor", "Model", "Hardware"),
        "mhz": _mhz(fields, folder),
        "cache_size": _whole(_first(fields, "cache size").split(" ")[0]),
        "flags": _first(fields, "flags", "Features", "features").split(),
    }


def _first(fields: Fields, *names: str) -> str:
    for name in names:
        if fields.get(name):
            return fields[name]
    return ""


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0


def _mhz(fields: Fields, folder: Path) -> float:
    text = _first(fields, "cpu MHz", "cpu MHz dynamic", "clock").removesuffix("MHz")
    try:
        return float(text)
    except ValueError:
        return _whole(_read(folder / "cpufreq/scaling_cur_freq")) / 1000


def _topology(folder: Path, name: str) -> str:
    return _read(folder / "topology" / name)


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""
