"""Ports of the loopback that nobody else takes while a test needs them, also between two programs that listen there."""

from __future__ import annotations

import socket

_reserved: list[socket.socket] = []


def reserve_port(host: str = "127.0.0.1") -> int:
    """A port that the system gives to nobody else until this process ends.

    A socket is bound to it, never listens, and so refuses connections. A program that asks for this port by its number
    and reuses addresses, as servers do, gets it nevertheless.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((host, 0))
    _reserved.append(holder)
    return int(holder.getsockname()[1])
