"""Checks of single values, for the table of settings. Each returns what is wrong, or an empty text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

Check = Callable[[Any], str]


def anything(value: Any) -> str:
    """No check beyond the kind."""
    return ""


def at_least(minimum: float) -> Check:
    """A number that must not be smaller."""

    def check(value: Any) -> str:
        return "" if value >= minimum else f"must be at least {minimum}, not {value:g}"

    return check


def zero_or_at_least(minimum: int) -> Check:
    """A limit: 0 for none, or a size that makes sense."""

    def check(value: Any) -> str:
        return "" if value == 0 or value >= minimum else f"must be 0 (no limit) or at least {minimum}, not {value}"

    return check


def one_of(*choices: str) -> Check:
    """A word out of a few."""

    def check(value: Any) -> str:
        return "" if value in choices else f"must be one of {', '.join(choices)}, not {value!r}"

    return check


def given(value: Any) -> str:
    """A text or path that must not be empty."""
    return "" if value is not None and str(value).strip() else "must not be empty"


def words(value: Any) -> str:
    """A list of words without empty ones and without control characters."""
    for item in value:
        if not item.strip():
            return "holds an empty item"
        if not item.isprintable():
            return f"holds the item {item!r} with control characters"
    return ""


def http_url(value: str) -> str:
    """A base URL: http or https, with a host, without a query."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        return f"{hide_password(value)!r} is no URL: {error}"
    shown = repr(hide_password(value))
    if parts.scheme.lower() not in ("http", "https"):
        return f"must begin with http:// or https://, not {shown}"
    if not parts.hostname:
        return f"names no host: {shown}"
    if port == 0:
        return f"has the impossible port 0: {shown}"
    if parts.query or parts.fragment:
        return f"must not hold a query or fragment: {shown}"
    if not value.isprintable() or " " in value:
        return f"holds blanks or control characters: {shown}"
    return ""


def listen_address(value: str) -> str:
    """Empty, or HOST:PORT (an IPv6 host in brackets)."""
    if not value:
        return ""
    host, colon, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or (":" in host and bare == host):
        return f"must be HOST:PORT such as 127.0.0.1:9464, not {value!r}"
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        return f"must end in a port from 0 to 65535, not {port!r}"
    return ""


def hide_password(url: str) -> str:
    """The URL with its user and password replaced by ``***``."""
    try:
        parts = urlsplit(url)
    except ValueError:
        before, at, after = url.rpartition("@")
        return f"{before.split('//')[0]}//***@{after}" if at else url
    account, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"***@{host}")) if at and account else url
