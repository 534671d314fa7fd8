"""HOST:PORT, as options and settings write it."""

from __future__ import annotations

import pytest

from greenagent.values.text import AddressError, HostNames, parse_address


@pytest.mark.parametrize(
    ("text", "address"), [("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:80", ("::1", 80)), ("host:0", ("host", 0))]
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["9464", "host:", "host:x", "host:70000", "::1:80", "[]:80", "host:1_0", "host:\u0663", ""]
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(AddressError, match="HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize("text", ["[fe80::1%lo]:8966", "[fe80::1%25eth0]:80"])
def test_a_zone_of_ipv6_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(AddressError, match="names a zone of IPv6"):
        parse_address(text)


@pytest.mark.parametrize("text", ["[fe80::1]:8966", "[FEBF::]:80"])
def test_a_link_local_address_without_its_zone_is_refused(text: str) -> None:
    with pytest.raises(AddressError, match="names a link-local address of IPv6, which is none without its zone"):
        parse_address(text)


@pytest.mark.parametrize("host", ["a..b", "\udcff", "x" * 64])
def test_a_host_no_lookup_can_find_is_refused(host: str) -> None:
    with pytest.raises(AddressError, match="is no name of a host"):
        parse_address(f"{host}:80")


@pytest.mark.parametrize(
    ("header", "unknown"),
    [
        ("Known.Example", None),
        ("known.example.:8966", None),
        ("127.0.0.1:8966", None),
        ("[::1]:8966", None),
        ("[fe80::1%lo]", None),
        ("", ""),
        ("[]:8966", ""),
        (" Other.example:1 ", "other.example"),
        ("127.0.0.1.example", "127.0.0.1.example"),
        ("127.0.0.1%x", "127.0.0.1%x"),
    ],
)
def test_a_name_that_a_server_does_not_have_is_told_from_its_own_and_from_addresses(header, unknown) -> None:
    assert HostNames(["KNOWN.example."]).unknown(header) == unknown
