"""Text that people read or write: made safe for a terminal; ids, shortened; and hosts, as
settings, options and requests name them.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from greenagent.values.errors import GreenagentError

SHORT: Final = 8
"""Characters that a shortened id has at least."""
_ACCOUNT: Final = re.compile(r"""(?<=://)[^\s/"']+@""")
"""User and password in a URL; ``?`` and ``#`` too, which do not belong there but may stand in a password."""


def hide_passwords(text: str) -> str:
    """The text with user and password of every URL in it replaced by ``***``."""
    return _ACCOUNT.sub("***@", text)


def visible(text: str, keep: str = "\t\n") -> str:
    """Control characters as escapes, but for those to ``keep``: a job must not steer the reader's terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def storable(text: str) -> str:
    """Lone surrogates cannot be stored or sent: they stay visible as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def nearest(name: str, known: Iterable[str]) -> str:
    """``, did you mean 'gid'?`` for the likeliest of the known names, or nothing."""
    by_folded = {candidate.lower(): candidate for candidate in sorted(known)}
    found = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.6)
    return f", did you mean '{by_folded[found[0]]}'?" if found else ""


class AddressError(GreenagentError):
    """A text that is not HOST:PORT."""


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; an IPv6 host stands in brackets, which are left out. Raises AddressError."""
    host, _, port = text.rpartition(":")
    if text.startswith((":", "*:")) and host in ("", "*"):
        raise AddressError(f"names no host, write 0.0.0.0:{port} or [::]:{port} for all of this machine: {text!r}")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = port.isascii() and port.isdigit() and len(port) < 10 and int(port) <= 65535
    if not bare or (":" in bare and bare == host) or not is_port:
        raise AddressError(
            f"must be HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:9464 or [::1]:9464, not {text!r}"
        )
    if fault := zone_fault(bare):
        raise AddressError(f"{fault}: {text!r}")
    try:
        bare.encode("idna")
    except UnicodeError as error:
        raise AddressError(f"{bare!r} is no name of a host") from error
    return bare, int(port)


def address_text(host: str, port: int) -> str:
    """As ``parse_address`` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def zone_fault(host: str) -> str:
    """Why a host is no use where no zone of IPv6 can be named, or ""."""
    if "%" in host:
        return "names a zone of IPv6, which is not supported"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if address.version == 6 and address.is_link_local:
        return "names a link-local address of IPv6, which is none without its zone, and zones are not supported"
    return ""


class HostNames:
    """The names that a server is asked by.

    A web page can make a browser ask a server of this machine under a name of the page's own (DNS rebinding), never
    under an address: so a server that wants no such visitors has to know its names.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._known = frozenset(name.lower().rstrip(".") for name in names)

    def unknown(self, header: str) -> str | None:
        """The name in a Host header, in small letters and without its port ("" for no header); None where it is known.

        Every address is known.
        """
        host = header.strip().lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
        if name.rstrip(".") in self._known:
            return None
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name
        return None


def is_loopback(host: str) -> bool:
    """Whether a host, as settings and options name it, is this machine alone."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def beginnings(shown: Iterable[str], known: Iterable[str], least: int = SHORT) -> dict[str, str]:
    """By text, its shortest beginning of at least ``least`` characters with which no other one of ``known`` begins.

    A text that is the beginning of another one stays whole.
    """
    texts = sorted(set(shown))
    shared = dict.fromkeys(texts, 0)
    """How many characters each has in common with some other one."""

    def compare(text: str, other: str) -> None:
        count = shared[text]
        while count < len(text) and text[: count + 1] == other[: count + 1]:
            count += 1
        shared[text] = count

    for before, after in pairwise(texts):
        compare(before, after)
        compare(after, before)
    for other in known:
        at = bisect_left(texts, other)
        # With those further away it has no more in common than they have with these.
        for text in texts[max(0, at - 1) : at + 1]:
            if text != other:
                compare(text, other)
    return {text: text[: max(least, count + 1)] for text, count in shared.items()}
