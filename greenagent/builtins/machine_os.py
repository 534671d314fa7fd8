"""``get_os_info`` (protocol 9): the machine, its distribution, and whether it is a virtual one."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import Any

from greenagent.builtins.machine import read_text
from greenagent.builtins.registry import information

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
