"""Trusted connections: who is refused and why, and certificates replaced while the agent runs (protocol 1.4)."""

from __future__ import annotations

import datetime
import os
import ssl
import warnings
from types import SimpleNamespace

import pytest
import trustme

from greenagent.runtime.tls import CertificateError
from greenagent.uplink.answer import TransportError
from greenagent.uplink.tls import agent_context
from tests.support.certificates import security, server_context, write_authority, write_pair
from tests.support.recording_controller import RecordingController
from tests.support.uplink import Uplink, running, watching
from tests.support.waiting import wait_until

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
TLS_VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def other_authority() -> trustme.CA:
    return trustme.CA()


def refusal(controller: RecordingController, trusted: object, url: str | None = None) -> TransportError:
    """What a post fails with."""
    with pytest.raises(TransportError) as caught:
        Uplink(url or controller.url, trusted).client().post("event", b"{}", timeout=60)
    assert controller.posts == []
    assert "\n" not in str(caught.value)
    return caught.value


@TLS_VERSIONS
def test_a_controller_with_an_extra_authority_and_a_client_certificate(authority, tmp_path, version):
    server = server_context(authority.issue_cert("127.0.0.1"), client_ca=authority, version=version)
    ours = security(write_authority(authority, tmp_path / "ca"), *write_pair(authority.issue_cert("agent"), tmp_path))
    with RecordingController(tls=server) as controller:
        answer = Uplink(controller.url, ours).client().post("event", b"{}")
        assert answer.ok
        assert answer.text == '"ok"'


def test_a_certificate_named_as_authority_is_trusted_even_if_it_is_an_intermediate_one(authority, tmp_path):
    """As in the original."""
    intermediate = authority.create_child_ca()
    server = server_context(intermediate.issue_cert("127.0.0.1"))
    trusted = security(write_authority(intermediate, tmp_path / "ca"))
    with RecordingController(tls=server) as controller:
        assert Uplink(controller.url, trusted).client().post("event", b"{}").ok


@pytest.mark.parametrize(
    ("names", "validity", "trusts_it", "reason"),
    [
        (["127.0.0.1"], {}, False, "its certificate's issuer is unknown"),
        (["elsewhere.example"], {}, True, "its certificate is for another host name"),
        (["127.0.0.2"], {}, True, "its certificate is for another host name"),
        (["127.0.0.1"], {"not_before": NOW - 9 * DAY, "not_after": NOW - DAY}, True, "its certificate has expired"),
        (
            ["127.0.0.1"],
            {"not_before": NOW + DAY, "not_after": NOW + 9 * DAY},
            True,
            "its certificate is not valid yet",
        ),
    ],
    ids=["issuer", "name", "address", "expired", "early"],
)
def test_a_server_certificate_that_is_wrong_is_refused_and_named(
    authority, tmp_path, names, validity, trusts_it, reason
):
    server = server_context(authority.issue_cert(*names, **validity))
    trusted = security(write_authority(authority, tmp_path / "ca")) if trusts_it else None
    with RecordingController(tls=server) as controller:
        error = refusal(controller, trusted)
    assert error.kind == "tls"
    assert reason in error.reason


def test_the_authorities_of_the_environment_do_not_count(authority, tmp_path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(write_authority(authority, tmp_path / "ca")))
    with RecordingController(tls=server_context(authority.issue_cert("127.0.0.1"))) as controller:
        assert "issuer is unknown" in refusal(controller, None).reason


@TLS_VERSIONS
def test_a_missing_client_certificate_is_named(authority, tmp_path, version):
    server = server_context(authority.issue_cert("127.0.0.1"), client_ca=authority, version=version)
    with RecordingController(tls=server) as controller:
        error = refusal(controller, security(write_authority(authority, tmp_path / "ca")))
    assert "wants a client certificate" in str(error)


@TLS_VERSIONS
def test_a_client_certificate_that_is_not_accepted_is_named(authority, other_authority, tmp_path, version):
    server = server_context(authority.issue_cert("127.0.0.1"), client_ca=authority, version=version)
    pair = write_pair(other_authority.issue_cert("agent"), tmp_path)
    with RecordingController(tls=server) as controller:
        error = refusal(controller, security(write_authority(authority, tmp_path / "ca"), *pair))
    assert "does not accept our client certificate" in str(error)


def test_plain_http_on_the_other_side_is_named():
    with RecordingController() as controller:
        error = refusal(controller, None, controller.url.replace("http:", "https:"))
    assert error.kind == "tls"
    assert "plain HTTP" in error.reason


def test_plain_http_towards_a_tls_port_fails_in_one_line(authority):
    with RecordingController(tls=server_context(authority.issue_cert("127.0.0.1"))) as controller:
        error = refusal(controller, None, controller.url.replace("https:", "http:"))
    assert error.kind in ("closed", "rubbish")
    assert "https" in str(error)


def test_a_server_that_knows_only_old_tls_is_refused(authority):
    server = server_context(authority.issue_cert("127.0.0.1"))
    server.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        server.minimum_version = server.maximum_version = ssl.TLSVersion.TLSv1_1
    with RecordingController(tls=server) as controller:
        assert refusal(controller, None).reason == "it speaks no TLS version from 1.2 on"


def test_a_poller_says_a_refusal_once_and_goes_on_when_the_authority_is_put_right(authority, other_authority, tmp_path):
    path = write_authority(other_authority, tmp_path / "ca")
    with RecordingController(tls=server_context(authority.issue_cert("127.0.0.1"))) as controller:
        uplink = Uplink(controller.url, security(path))
        poller, got = uplink.poller()
        with running(poller), watching(uplink):
            wait_until(lambda: poller.metrics.poll_errors > 5, what="retries")
            write_authority(authority, path)
            controller.push({"id": "one", "cmd": "ping"})
            wait_until(lambda: got.commands, what="the command")
    assert len([line for line in uplink.said if "issuer is unknown" in line]) == 1
    assert "controller main (https://127.0.0.1" in uplink.said[0]


def test_replaced_client_certificates_are_used_without_waiting_for_the_open_poll(authority, tmp_path):
    first, second = authority.issue_cert("agent"), authority.issue_cert("agent")
    ours = security(write_authority(authority, tmp_path / "ca"), *write_pair(first, tmp_path))
    server = server_context(authority.issue_cert("127.0.0.1"), client_ca=authority)
    with RecordingController(tls=server) as controller:
        uplink = Uplink(controller.url, ours)
        poller, got = uplink.poller()
        with running(poller), watching(uplink):
            controller.wait_for_poll()
            write_pair(second, tmp_path)
            controller.wait_for_poll(2)
            controller.push({"id": "one", "cmd": "ping"})
            wait_until(lambda: got.commands, what="the command")
    assert got.refused == []
    assert controller.polls[0].peer != controller.polls[1].peer
    assert poller.metrics.poll_errors == 0
    assert controller.events == [{"name": "startup"}]


@pytest.mark.parametrize(("kind", "words"), [("half", "no PEM file"), ("pipe", "it is a pipe, not a file")])
def test_a_broken_new_file_keeps_the_old_one_in_use_and_is_said_once(authority, tmp_path, kind, words):
    path = write_authority(authority, tmp_path / "ca")
    with RecordingController(park=0.6, tls=server_context(authority.issue_cert("127.0.0.1"))) as controller:
        uplink = Uplink(controller.url, security(path))
        poller, _ = uplink.poller()
        with running(poller), watching(uplink):
            controller.wait_for_poll()
            new = tmp_path / "new"
            if kind == "pipe":
                os.mkfifo(new)
            else:
                new.write_text("half a file")
            new.replace(path)
            wait_until(lambda: uplink.said, what="the complaint")
            polls = len(controller.polls)
            controller.wait_for_poll(polls + 2)
            write_authority(authority, new).replace(path)
            wait_until(lambda: len(uplink.said) > 2, what="the good news")
    assert words in uplink.said[0]
    assert "stay in use" in uplink.said[0]
    assert len([line for line in uplink.said if words in line]) == 1
    assert poller.metrics.poll_errors == 0


def test_two_controllers_with_two_authorities(authority, other_authority, tmp_path):
    with (
        RecordingController(tls=server_context(authority.issue_cert("127.0.0.1"))) as one,
        RecordingController(tls=server_context(other_authority.issue_cert("127.0.0.1"))) as two,
    ):
        for controller, known in ((one, authority), (two, other_authority)):
            trusted = security(write_authority(known, tmp_path / "ca"))
            assert Uplink(controller.url, trusted).client().post("event", b"{}").ok
        assert "issuer is unknown" in refusal_of(two, security(write_authority(authority, tmp_path / "ca")))


def refusal_of(controller: RecordingController, trusted: object) -> str:
    with pytest.raises(TransportError) as caught:
        Uplink(controller.url, trusted).client().post("event", b"{}")
    return caught.value.reason


def files(tmp_path, authority, fault: str) -> SimpleNamespace:
    """A section with one fault."""
    ca = write_authority(authority, tmp_path / "ca")
    certificate, key = write_pair(authority.issue_cert("agent"), tmp_path)
    _, other_key = write_pair(authority.issue_cert("agent"), tmp_path, "other")
    if fault == "missing":
        certificate.unlink()
    elif fault == "no pem":
        certificate.write_text("hello")
    elif fault == "mismatch":
        key = other_key
    elif fault == "folder":
        key = tmp_path
    elif fault == "garbled":
        certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    elif fault == "garbled key":
        key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    elif fault == "garbled authority":
        ca.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    elif fault == "encrypted":
        key.write_bytes(encrypted_key())
    return security(ca, certificate, None if fault == "keyless" else key)


def encrypted_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("missing", r"client_certificate \S+ does not exist"),
        ("no pem", r"client_certificate \S+ is no PEM file with a certificate"),
        ("mismatch", r"client_certificate_key \S+ does not match client_certificate"),
        ("folder", r"client_certificate_key \S+ cannot be read: it is a folder, not a file"),
        ("garbled", r"client_certificate \S+ is damaged: it cannot be decoded"),
        ("garbled key", r"client_certificate_key \S+ is damaged: it cannot be decoded"),
        ("garbled authority", r"certificate_authority \S+ is damaged: it cannot be decoded"),
        ("encrypted", r"client_certificate_key \S+ is protected by a pass phrase"),
        ("keyless", r"client_certificate \S+ needs client_certificate_key beside it"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_fault(tmp_path, authority, fault, reason):
    with pytest.raises(CertificateError, match=reason):
        agent_context(files(tmp_path, authority, fault))


@pytest.mark.parametrize(
    ("variable", "name"), [("SSL_CERT_FILE", "roots"), ("SSL_CERT_DIR", "0123abcd.0"), ("SSL_CERT_DIR", "0123abcd.r1")]
)
def test_a_pipe_in_the_place_of_the_systems_roots_is_named_and_not_waited_for(tmp_path, monkeypatch, variable, name):
    os.mkfifo(tmp_path / name)
    value = tmp_path / name if variable == "SSL_CERT_FILE" else f"{tmp_path}/none:{tmp_path}"
    monkeypatch.setenv(variable, str(value))
    with pytest.raises(CertificateError, match=r"the system's root certificates \S+ cannot be read: it is a pipe"):
        agent_context(security())


def test_a_file_that_was_never_usable_is_the_reason_of_every_failure_until_it_is(tmp_path, authority):
    path = tmp_path / "ca"
    with RecordingController(tls=server_context(authority.issue_cert("127.0.0.1"))) as controller:
        uplink = Uplink(controller.url, security(path))
        client = uplink.client()
        with pytest.raises(TransportError, match="does not exist"):
            client.post("event", b"{}")
        write_authority(authority, path)
        assert uplink.tls.refresh()
        assert client.post("event", b"{}").ok
