"""What the machine is and has: system, processors, mounted file systems, memory, network interfaces (protocol 9).

Read from files of the system or asked of psutil: nothing here starts another program.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import socket
import time
from pathlib import Path
from typing import Any, Final

from greenagent.builtins.registry import BuiltInError, information

FLAGS: Final = ("up", "broadcast", "loopback", "pointtopoint", "multicast")
"""The flags of an interface that the originals tell; the system knows more."""

_PROCESSOR = re.compile(r"processor\s*([0-9]+)?\s*:\s*(.*)\Z")
_ESCAPE = re.compile(r"\\([0-7]{3})")

Fields = dict[str, str]


@information("get_cpu_info")
def cpu_info(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> list[dict[str, Any]]:
    """Each processor in /proc/cpuinfo; fields that an architecture does not have are empty or 0.

    ``mhz`` is the present frequency, ``cache_size`` is in KB. Raises OSError without /proc/cpuinfo.
    """
    processors, common = _parse((proc / "cpuinfo").read_text("utf-8", "replace"))
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
        return _whole(read_text(folder / "cpufreq/scaling_cur_freq")) / 1000


def _topology(folder: Path, name: str) -> str:
    return read_text(folder / "topology" / name)


def read_text(path: Path) -> str:
    """What a file of the system holds; "" when it is not there."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


@information("get_disk_info")
def disk_info(proc: Path = Path("/proc")) -> list[dict[str, str]]:
    """All mounts of all kinds, as this process sees them. Raises OSError without /proc/self/mounts."""
    found = []
    for line in (proc / "self/mounts").read_text("utf-8", "surrogateescape").splitlines():
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        device, mountpoint, fstype, opts = (_unescape(field) for field in fields[:4])
        found.append({"device": device, "mountpoint": mountpoint, "fstype": fstype, "opts": opts})
    return found


def _unescape(field: str) -> str:
    """Blanks and backslashes in names are written in octal; bytes that are no UTF-8 stay visible."""
    plain = _ESCAPE.sub(lambda match: chr(int(match.group(1), 8)), field)
    return plain.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@information("get_mem_info")
def memory_info(proc: Path = Path("/proc")) -> dict[str, Any]:
    """The machine's memory. ``used`` is all that is not free; ``used_percent`` leaves out what is available.

    ``available`` is the kernel's own estimate, or free, buffers and cached where it has none (before
    Linux 3.14). Raises OSError without /proc/meminfo.
    """
    fields: dict[str, int] = {}
    for line in (proc / "meminfo").read_text("ascii", "replace").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            fields[name] = int(words[0]) * 1024
    total = fields.get("MemTotal", 0)
    free = fields.get("MemFree", 0)
    buffers = fields.get("Buffers", 0)
    cached = fields.get("Cached", 0)
    available = fields.get("MemAvailable", free + buffers + cached)
    return {
        "total": total,
        "available": available,
        "used": total - free,
        "used_percent": round(100 * (total - available) / total, 2) if total else 0.0,
        "free": free,
        "active": fields.get("Active", 0),
        "inactive": fields.get("Inactive", 0),
        "buffers": buffers,
        "cached": cached,
        "wired": 0,
        "shared": fields.get("Shmem", 0),
    }


@information("get_nic_info")
def network_info() -> list[dict[str, Any]]:
    """The interfaces by name. Raises OSError if the kernel does not answer, BuiltInError without psutil."""
    try:
        import psutil  # late: no other part needs it, and it is a megabyte of memory
    except ImportError as error:
        raise BuiltInError(
            f"psutil, which reads the interfaces, cannot be loaded: {error}; install it again"
        ) from error

    addresses = psutil.net_if_addrs()
    found = []
    for name, state in sorted(psutil.net_if_stats().items()):
        flags = set(state.flags.split(","))
        hardware = ""
        addrs = []
        for address in addresses.get(name, ()):
            if address.family == psutil.AF_LINK:
                hardware = address.address if address.address.strip("0:") else ""
            elif address.family in (socket.AF_INET, socket.AF_INET6):
                addrs.append({"addr": f"{address.address.partition('%')[0]}/{_prefix(address)}"})
        found.append(
            {
                "mtu": state.mtu,
                "name": name,
                "hardwareaddr": hardware,
                "flags": [flag for flag in FLAGS if flag in flags],
                "addrs": addrs,
            }
        )
    return found


def _prefix(address: Any) -> int:
    """The length of an address's network mask; all of its bits where there is none."""
    if not address.netmask:
        return 32 if address.family == socket.AF_INET else 128
    return int(ipaddress.ip_address(address.netmask)).bit_count()


# -- the system: its distribution, and whether it is a virtual one

_FAMILIES = {
    "debian": "debian",
    "ubuntu": "debian",
    "fedora": "fedora",
    "rhel": "rhel",
    "centos": "rhel",
    "rocky": "rhel",
    "almalinux": "rhel",
    "ol": "rhel",
    "amzn": "rhel",
    "opensuse": "suse",
    "suse": "suse",
    "sles": "suse",
    "arch": "arch",
    "alpine": "alpine",
    "gentoo": "gentoo",
}

_CONTAINERS = (("docker", "docker"), ("kubepods", "kubernetes"), ("libpod", "podman"), ("/lxc", "lxc"))

_MAKERS = (
    ("qemu", "kvm"),
    ("kvm", "kvm"),
    ("amazon ec2", "kvm"),
    ("google", "kvm"),
    ("digitalocean", "kvm"),
    ("openstack", "kvm"),
    ("vmware", "vmware"),
    ("virtualbox", "vbox"),
    ("innotek", "vbox"),
    ("xen", "xen"),
    ("microsoft corporation", "hyperv"),
    ("parallels", "parallels"),
    ("bhyve", "bhyve"),
)


@information("get_os_info")
def os_info(proc: Path = Path("/proc"), sys: Path = Path("/sys"), root: Path = Path("/")) -> dict[str, Any]:
    """``uptime`` in seconds, ``boot_time`` in seconds since 1970, ``procs`` the number of processes.

    Everything is read from files: what asks another program would fork inside the agent.
    """
    uptime = _uptime(proc)
    release = _os_release(root)
    names = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    system, role = _virtualization(proc, sys, root)
    return {
        "hostname": os.uname().nodename,
        "uptime": uptime,
        "boot_time": _boot_time(proc, uptime),
        "procs": sum(entry.isdecimal() for entry in os.listdir(proc)),
        "os": "linux",
        "platform": names[0],
        "platform_family": next((_FAMILIES[name] for name in map(_plain, names) if name in _FAMILIES), ""),
        "platform_version": release.get("VERSION_ID", ""),
        "virtualization_system": system,
        "virtualization_role": role,
    }


def _plain(name: str) -> str:
    """``opensuse-leap`` is ``opensuse``."""
    return name.partition("-")[0]


def _uptime(proc: Path) -> int:
    words = read_text(proc / "uptime").split()
    return int(float(words[0])) if words else int(time.clock_gettime(time.CLOCK_BOOTTIME))


def _boot_time(proc: Path, uptime: int) -> int:
    for line in read_text(proc / "stat").splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return int(time.time()) - uptime


def _os_release(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    text = read_text(root / "etc/os-release") or read_text(root / "usr/lib/os-release")
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if not equals or line.startswith("#"):
            continue
        try:
            found[name.strip()] = "".join(shlex.split(value))
        except ValueError:
            found[name.strip()] = value.strip()
    return found


def _virtualization(proc: Path, sys: Path, root: Path) -> tuple[str, str]:
    """The innermost virtualization first: a container in a virtual machine is a container."""
    container = _container(proc, root)
    if container:
        return container, "guest"
    capabilities = read_text(proc / "xen/capabilities")
    kind = read_text(sys / "hypervisor/type")
    if capabilities or kind == "xen":
        return "xen", "host" if "control_d" in capabilities else "guest"
    makers = " ".join(read_text(sys / "class/dmi/id" / name) for name in ("sys_vendor", "product_name", "bios_vendor"))
    cpuinfo = read_text(proc / "cpuinfo")
    is_guest = any("hypervisor" in line.split() for line in cpuinfo.splitlines() if line.startswith("flags"))
    for word, system in _MAKERS:
        if word in makers.lower() and (is_guest or word != "microsoft corporation"):
            return system, "guest"
    if "QEMU Virtual CPU" in cpuinfo or "Common KVM processor" in cpuinfo:
        return "kvm", "guest"
    if is_guest:
        clock = read_text(sys / "devices/system/clocksource/clocksource0/available_clocksource")
        return ("kvm" if "kvm-clock" in clock else "hyperv" if "hyperv" in clock else "unknown"), "guest"
    modules = read_text(proc / "modules")
    for module, system in (("kvm_intel ", "kvm"), ("kvm_amd ", "kvm"), ("kvm ", "kvm"), ("vboxdrv ", "vbox")):
        if any(line.startswith(module) for line in modules.splitlines()):
            return system, "host"
    return "", ""


def _container(proc: Path, root: Path) -> str:
    for name in read_text(proc / "1/environ").split("\0"):
        if name.startswith("container="):
            return name.partition("=")[2] or "container"
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    groups = read_text(proc / "self/cgroup")
    return next((system for word, system in _CONTAINERS if word in groups), "")
