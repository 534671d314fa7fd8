"""The controller over TLS."""

from __future__ import annotations

import datetime
import socket

import gevent
import pytest
import requests
import trustme

from greenagent.controller.http.tls import served_context
from tests.support.certificates import write_authority, write_pair
from tests.support.controllers import ControllerProcess
from tests.support.local_controller import plain
from tests.support.waiting import wait_until


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(make_controller, authority, tmp_path):
    """A controller that asks its clients for a certificate."""
    chain, key = write_pair(authority.issue_cert("127.0.0.1", "localhost"), tmp_path, "server")
    ca = write_authority(authority, tmp_path / "ca.pem")
    return make_controller(tls=served_context(chain, key, ca))


def client(folder, authority, certificate=None) -> requests.Session:
    session = plain()
    session.verify = str(write_authority(authority, folder / "trusted.pem"))
    if certificate is not None:
        session.cert = tuple(map(str, write_pair(certificate, folder)))
    return session


def test_a_client_of_the_right_authority_is_served(secure, authority, tmp_path) -> None:
    assert secure.url.startswith("https://127.0.0.1:")
    session = client(tmp_path, authority, authority.issue_cert("agent"))
    assert session.get(f"{secure.url}/1/10/ping", timeout=60).json() == "ok"
    assert session.get(f"{secure.url}/api/agents", timeout=60).status_code == 200
    assert not secure.said


@pytest.mark.parametrize(
    ("certificate", "words"),
    [("none", "shows no client certificate"), ("other", "issuer is not in --client-ca"), ("old", "has expired")],
)
def test_a_wrong_client_certificate_is_refused_and_named(secure, authority, tmp_path, certificate, words) -> None:
    made = {
        "none": lambda: None,
        "other": lambda: trustme.CA().issue_cert("agent"),
        "old": lambda: authority.issue_cert("agent", not_after=datetime.datetime(2020, 1, 1)),
    }[certificate]()
    session = client(tmp_path, authority, made)
    for _ in range(3):
        with pytest.raises(requests.RequestException):
            session.get(f"{secure.url}/1/10/ping", timeout=60)
    wait_until(lambda: secure.said, what="the refusal to be said")
    assert len(secure.said) == 1
    assert "127.0.0.1" in secure.said[0]
    assert words in secure.said[0]
    good = client(tmp_path, authority, authority.issue_cert("agent"))
    assert good.get(f"{secure.url}/1/10/ping", timeout=60).status_code == 200


def test_a_handshake_that_hangs_blocks_nobody_and_ends(secure, authority, tmp_path) -> None:
    address = "127.0.0.1", int(secure.url.rpartition(":")[2])
    stuck = [socket.create_connection(address) for _ in range(20)]
    session = client(tmp_path, authority, authority.issue_cert("agent"))
    assert session.get(f"{secure.url}/1/10/ping", timeout=60).status_code == 200
    secure.change_limits(handshake=0.5)  # for these alone: it might be too short for who is served
    late = [socket.create_connection(address) for _ in range(3)]
    for connection in late:
        connection.settimeout(60)
        assert connection.recv(1) == b""
    for connection in (*stuck, *late):
        connection.close()
    wait_until(lambda: any("no handshake within" in line for line in secure.said), what="it to be said")


def test_plain_http_on_the_tls_port_is_refused_and_named(secure) -> None:
    with pytest.raises(requests.RequestException):
        plain().get(secure.url.replace("https", "http") + "/1/10/ping", timeout=60)
    wait_until(lambda: any("speaks plain HTTP" in line for line in secure.said), what="it to be said")


def test_a_poll_over_tls_is_woken_and_its_hang_up_noticed(secure, authority, tmp_path) -> None:
    session = client(tmp_path, authority, authority.issue_cert("agent"))
    agents = secure.services.agents

    def parked() -> int:
        agent = agents.get((1, 10))
        return len(agent.parked) if agent else 0

    lost = gevent.spawn(session.get, f"{secure.url}/1/10/cmd", timeout=75)
    wait_until(lambda: parked() == 1, what="the poll to be open")
    lost.kill()
    session.close()
    wait_until(lambda: parked() == 0, what="the hang-up to be noticed")
    poll = gevent.spawn(session.get, f"{secure.url}/1/10/cmd", timeout=75)
    wait_until(lambda: parked() == 1, what="the poll to be open")
    api = client(tmp_path, authority, authority.issue_cert("person"))
    api.post(f"{secure.url}/api/jobs", json={"id": "j", "cmd": "ping", "gid": 1, "nid": 10}, timeout=60)
    assert poll.get(timeout=60).json()["id"] == "j"


def test_the_command_line_serves_tls_1_2_and_newer(authority, tmp_path) -> None:
    chain, key = write_pair(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    process = ControllerProcess(tmp_path, "--tls-cert", str(chain), "--tls-key", str(key))
    try:
        assert process.url.startswith("https://")
        session = client(tmp_path, authority)
        assert session.get(f"{process.url}/api/agents", timeout=60).json() == {"agents": []}
        with pytest.raises(requests.exceptions.SSLError):
            client(tmp_path, trustme.CA()).get(f"{process.url}/api/agents", timeout=60)
    finally:
        assert process.stop() == 0
