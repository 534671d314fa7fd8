"""``get_nic_info`` (protocol 9): every network interface with its addresses.

Links and addresses are asked of the kernel through a netlink socket: /sys is not mounted in every
container, and the older calls know one address per interface only.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Any

_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_DONE, _ERROR = 3, 2
_REQUEST_DUMP = 0x301
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ATTRIBUTE = struct.Struct("=HH")
_LINK_HARDWARE, _LINK_NAME, _LINK_MTU = 1, 3, 4
_ADDRESS_PEER, _ADDRESS_LOCAL = 1, 2

_FLAGS = ((0x1, "up"), (0x2, "broadcast"), (0x8, "loopback"), (0x10, "pointtopoint"), (0x1000, "multicast"))


def network_info() -> list[dict[str, Any]]:
    """The interfaces in the kernel's order. Raises OSError if the kernel does not answer."""
    interfaces: dict[int, dict[str, Any]] = {}
    for body in _dump(_RTM_GETLINK, _RTM_NEWLINK, _LINK.pack(0, 0, 0, 0, 0)):
        _, _, index, flags, _ = _LINK.unpack_from(body)
        attributes = _attributes(body[_LINK.size :])
        mtu = attributes.get(_LINK_MTU, b"")
        interfaces[index] = {
            "mtu": struct.unpack("=I", mtu)[0] if len(mtu) == 4 else 0,
            "name": attributes.get(_LINK_NAME, b"").rstrip(b"\0").decode("utf-8", "backslashreplace"),
            "hardwareaddr": _hardware(attributes.get(_LINK_HARDWARE, b"")),
            "flags": [word for bit, word in _FLAGS if flags & bit],
            "addrs": [],
        }
    for body in _dump(_RTM_GETADDR, _RTM_NEWADDR, _ADDRESS.pack(0, 0, 0, 0, 0)):
        family, prefix, _, _, index = _ADDRESS.unpack_from(body)
        attributes = _attributes(body[_ADDRESS.size :])
        # On a point-to-point link the first is the other end's.
        packed = attributes.get(_ADDRESS_LOCAL, attributes.get(_ADDRESS_PEER, b""))
        if family in (socket.AF_INET, socket.AF_INET6) and len(packed) in (4, 16) and index in interfaces:
            interfaces[index]["addrs"].append({"addr": f"{ipaddress.ip_address(packed)}/{prefix}"})
    return list(interfaces.values())


def _dump(request: int, answer: int, body: bytes) -> Iterator[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asking:
        asking.settimeout(5)
        asking.send(_HEADER.pack(_HEADER.size + len(body), request, _REQUEST_DUMP, 1, 0) + body)
        while True:
            data = asking.recv(1 << 18)
            while len(data) >= _HEADER.size:
                length, kind, _, _, _ = _HEADER.unpack_from(data)
                if kind == _DONE or length < _HEADER.size:
                    return
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", data, _HEADER.size)[0]
                    raise OSError(number, f"the kernel does not tell its interfaces (error {number})")
                if kind == answer:
                    yield data[_HEADER.size : length]
                data = data[_aligned(length) :]


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _hardware(packed: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in packed) if any(packed) else ""
