"""Addresses to listen on, as options and settings write them."""

from __future__ import annotations

from greenagent.values.errors import GreenagentError


class AddressError(GreenagentError):
    """A text that is not HOST:PORT."""


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; an IPv6 host stands in brackets, which are left out. Raises AddressError."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = port.isascii() and port.isdigit() and len(port) < 10 and int(port) <= 65535
    if not bare or (":" in bare and bare == host) or not is_port:
        raise AddressError(
            f"must be HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:9464 or [::1]:9464, not {text!r}"
        )
    try:
        bare.encode("idna")
    except UnicodeError as error:
        raise AddressError(f"{bare!r} is no name of a host") from error
    return bare, int(port)
