"""The information commands: shapes of protocol 9, units, and machines unlike this one."""

import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from greenagent.builtins.machine import cpu_info, disk_info, memory_info, network_info, os_info
from greenagent.values.errors import GreenagentError

CPU_SHAPE = {
    "cpu": int,
    "vendor_id": str,
    "family": str,
    "model": str,
    "stepping": int,
    "physical_id": str,
    "core_id": str,
    "cores": int,
    "model_name": str,
    "mhz": float,
    "cache_size": int,
    "flags": list,
}


def check_shape(value: dict, shape: dict[str, type]) -> None:
    assert {name: type(found) for name, found in value.items()} == shape
    json.dumps(value, allow_nan=False)


def fake(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_cpu_of_this_machine() -> None:
    found = cpu_info()
    assert len(found) == os.sysconf("SC_NPROCESSORS_ONLN")
    for processor in found:
        check_shape(processor, CPU_SHAPE)


X86 = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 158
model name\t: Intel(R) Core(TM) i7
stepping\t: 10
cpu MHz\t\t: 2592.000
cache size\t: 12288 KB
physical id\t: 0
core id\t\t: 3
cpu cores\t: 6
flags\t\t: fpu vme

"""
ARM = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd08
CPU revision\t: 3

processor\t: 1
Features\t: fp asimd

Hardware\t: BCM2835
Model\t\t: Raspberry Pi 4
"""
S390 = """vendor_id       : IBM/S390
# processors    : 2
features\t: esan3 zarch
processor 0: version = FF,  identification = 2733E8,  machine = 2964
processor 1: version = FF,  identification = 2733E8,  machine = 2964

cpu number      : 0
cpu MHz dynamic : 5000
"""


def test_cpu_of_other_architectures(tmp_path: Path) -> None:
    [x86] = cpu_info(fake(tmp_path / "x86", {"cpuinfo": X86}), tmp_path)
    check_shape(x86, CPU_SHAPE)
    assert (x86["cores"], x86["mhz"], x86["cache_size"], x86["flags"]) == (6, 2592.0, 12288, ["fpu", "vme"])
    assert (x86["family"], x86["model"], x86["core_id"], x86["stepping"]) == ("6", "158", "3", 10)

    sys = fake(tmp_path / "sys", {"devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n"})
    arm = cpu_info(fake(tmp_path / "arm", {"cpuinfo": ARM}), sys)
    assert [processor["cpu"] for processor in arm] == [0, 1]
    for processor in arm:
        check_shape(processor, CPU_SHAPE)
    assert (arm[0]["vendor_id"], arm[0]["model_name"], arm[0]["mhz"]) == ("0x41", "Raspberry Pi 4", 1500.0)

    s390 = cpu_info(fake(tmp_path / "s390", {"cpuinfo": S390}), tmp_path)
    assert [processor["cpu"] for processor in s390] == [0, 1]
    assert (s390[0]["vendor_id"], s390[0]["model"], s390[0]["flags"]) == ("IBM/S390", "2964", ["esan3", "zarch"])


def test_disks_are_all_mounts_with_names_unescaped(tmp_path: Path) -> None:
    for disk in disk_info():
        check_shape(disk, {"device": str, "mountpoint": str, "fstype": str, "opts": str})
    assert any(disk["mountpoint"] == "/proc" and disk["fstype"] == "proc" for disk in disk_info())
    proc = fake(tmp_path, {"self/mounts": "//nas/my\\040share /mnt/a\\134b cifs rw,noexec 0 0\n"})
    assert disk_info(proc) == [
        {"device": "//nas/my share", "mountpoint": "/mnt/a\\b", "fstype": "cifs", "opts": "rw,noexec"}
    ]


def test_memory_is_in_bytes_of_1024(tmp_path: Path) -> None:
    found = memory_info()
    assert found["total"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < found["available"] <= found["total"]
    names = ("total", "available", "used", "free", "active", "inactive", "buffers", "cached", "wired", "shared")
    check_shape(found, {**dict.fromkeys(names, int), "used_percent": float})
    text = "MemTotal: 1000 kB\nMemFree: 400 kB\nBuffers: 50 kB\nCached: 150 kB\nShmem: 7 kB\n"
    old = memory_info(fake(tmp_path / "old", {"meminfo": text}))
    assert (old["available"], old["used"], old["used_percent"], old["shared"]) == (614400, 614400, 40.0, 7168)
    new = memory_info(fake(tmp_path / "new", {"meminfo": text + "MemAvailable: 750 kB\n"}))
    assert (new["available"], new["used_percent"]) == (768000, 25.0)


def test_network_interfaces() -> None:
    found = network_info()
    assert {interface["name"] for interface in found} == {name for _, name in socket.if_nameindex()}
    for interface in found:
        check_shape(interface, {"mtu": int, "name": str, "hardwareaddr": str, "flags": list, "addrs": list})
    loopback = next(interface for interface in found if interface["name"] == "lo")
    assert {"addr": "127.0.0.1/8"} in loopback["addrs"]
    assert {"up", "loopback"} <= set(loopback["flags"])
    assert loopback["mtu"] > 0


OS_SHAPE = {
    "hostname": str,
    "uptime": int,
    "boot_time": int,
    "procs": int,
    "os": str,
    "platform": str,
    "platform_family": str,
    "platform_version": str,
    "virtualization_system": str,
    "virtualization_role": str,
}


def test_os_of_this_machine() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
    found = os_info()
    after = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
    check_shape(found, OS_SHAPE)
    assert found["hostname"] == socket.gethostname()
    assert before[0] - 5 < found["uptime"] < after[0] + 5
    assert before[1] - 5 < found["boot_time"] + found["uptime"] < after[1] + 5
    assert found["procs"] >= 1


@pytest.mark.parametrize(
    ("release", "platform", "family", "version"),
    [
        ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n', "ubuntu", "debian", "24.04"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.3"\n', "rocky", "rhel", "9.3"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\nVERSION_ID="15.6"\n', "opensuse-leap", "suse", "15.6"),
        ("ID=odd\nBROKEN='x\n", "odd", "", ""),
        ("", "", "", ""),
    ],
)
def test_distributions(tmp_path: Path, release: str, platform: str, family: str, version: str) -> None:
    root = fake(tmp_path, {"etc/os-release": release, "proc/uptime": "5.5 1.0\n", "proc/stat": "btime 100\n"})
    found = os_info(root / "proc", root / "sys", root)
    check_shape(found, OS_SHAPE)
    assert (found["platform"], found["platform_family"], found["platform_version"]) == (platform, family, version)
    assert (found["uptime"], found["boot_time"]) == (5, 100)


@pytest.mark.parametrize(
    ("files", "system", "role"),
    [
        ({"proc/uptime": "1 1"}, "", ""),
        ({"proc/1/environ": "A=b\0container=lxc\0"}, "lxc", "guest"),
        ({"proc/self/cgroup": "4:memory:/docker/abc\n"}, "docker", "guest"),
        ({".dockerenv": "", "proc/uptime": "1 1"}, "docker", "guest"),
        ({"sys/class/dmi/id/sys_vendor": "QEMU\n", "proc/uptime": "1 1"}, "kvm", "guest"),
        ({"sys/class/dmi/id/product_name": "VirtualBox\n", "proc/uptime": "1 1"}, "vbox", "guest"),
        ({"sys/class/dmi/id/sys_vendor": "Microsoft Corporation\n", "proc/cpuinfo": "flags\t: fpu\n"}, "", ""),
        (
            {"sys/class/dmi/id/sys_vendor": "Microsoft Corporation\n", "proc/cpuinfo": "flags\t: fpu hypervisor\n"},
            "hyperv",
            "guest",
        ),
        ({"proc/xen/capabilities": "control_d\n"}, "xen", "host"),
        ({"sys/hypervisor/type": "xen\n", "proc/uptime": "1 1"}, "xen", "guest"),
        ({"proc/modules": "kvm_amd 1 0 - Live\nkvm 2 1 kvm_amd\n"}, "kvm", "host"),
        ({"proc/cpuinfo": "flags\t\t: fpu hypervisor lahf_lm\n"}, "unknown", "guest"),
    ],
)
def test_virtualization(tmp_path: Path, files: dict[str, str], system: str, role: str) -> None:
    root = fake(tmp_path, files)
    (root / "proc").mkdir(exist_ok=True)
    found = os_info(root / "proc", root / "sys", root)
    assert (found["virtualization_system"], found["virtualization_role"]) == (system, role)


def test_nothing_forks() -> None:
    """An audit hook cannot be removed, so the check runs in an interpreter of its own."""
    import subprocess

    program = """
import sys
def hook(event, arguments):
    if event in ("os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "subprocess.Popen", "os.system", "pty.spawn"):
        raise SystemExit("it forks: " + event)
from greenagent.builtins import machine
sys.addaudithook(hook)
machine.cpu_info(), machine.disk_info(), machine.memory_info(), machine.network_info(), machine.os_info()
print("fine")
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == (b"fine\n", b"")


def test_a_package_that_went_from_under_the_agent_is_an_ordinary_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the packages are replaced while the agent runs: what is loaded late is not there."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(GreenagentError, match="psutil, which reads the interfaces, cannot be loaded"):
        network_info()
