"""``get_nic_info`` (protocol 9): every network interface with its addresses."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any, Final

FLAGS: Final = ("up", "broadcast", "loopback", "pointtopoint", "multicast")
"""The flags that the originals tell; the system knows more."""


def network_info() -> list[dict[str, Any]]:
    """The interfaces by name. Raises OSError if the kernel does not answer."""
    import psutil  # late: no other part needs it, and it is a megabyte of memory

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
