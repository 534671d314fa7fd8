"""How ``greenagent-ctl`` reaches a controller, and what it says where it does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trustme
from gevent.pywsgi import WSGIServer
from gevent.server import StreamServer

from greenagent.controller.http.tls import served_context
from tests.support.certificates import certificate_without_key_identifiers, write_authority, write_pair
from tests.support.ctl import (
    Ctl,
    answers,
    ctl,
)


def test_a_controller_that_is_away_or_no_controller_is_one_line_and_125(controller) -> None:
    for url in ("http://127.0.0.1:1", "https" + controller.url.removeprefix("http")):
        done = ctl(url, "agents")
        assert done.code == 125
        assert done.err.count("\n") == 1
        assert done.err.startswith(f"greenagent-ctl: cannot reach the controller at {url}: ")
    done = ctl(controller.url + "/1/10/ping?", "agents")
    assert done.code == 125
    assert done.err.count("\n") == 1


def test_tls_and_token_from_options_and_environment(make_controller, tmp_path) -> None:
    authority = trustme.CA()
    chain, key = write_pair(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    ca = write_authority(authority, tmp_path / "ca.pem")
    mine, mine_key = write_pair(authority.issue_cert("me"), tmp_path, "me")
    controller = make_controller(tls=served_context(chain, key, ca), token=lambda: "secret")
    token = tmp_path / "token"
    token.write_text("secret\n")
    options = {"--ca": ca, "--cert": mine, "--key": mine_key, "--token-file": token}
    given = [str(word) for pair in options.items() for word in pair]
    assert ctl(controller.url, *given, "agents", "--json") == (0, '{"agents": []}\n', "")
    assert ctl(controller.url, "agents", "--json", *given) == (0, '{"agents": []}\n', "")
    environment = {
        "GREENAGENT_CTL_" + name.strip("-").replace("-", "_").upper(): str(value) for name, value in options.items()
    }
    done = Ctl("agents", "--json", GREENAGENT_CTL_URL=controller.url, **environment).done()
    assert done == (0, '{"agents": []}\n', "")
    without_token = ctl(controller.url, *given[:6], "agents")
    assert (without_token.code, without_token.err.count("\n")) == (125, 1)
    assert "token" in without_token.err
    without_ca = ctl(controller.url, "agents")
    assert (without_ca.code, without_ca.err.count("\n")) == (125, 1)
    assert "issuer" in without_ca.err or "self-signed" in without_ca.err


def test_a_certificate_without_key_identifiers_is_accepted(make_controller, tmp_path) -> None:
    """As OpenSSL before 3 makes them; Python from 3.13 on refuses them where it makes the context itself."""
    ca, chain, key = certificate_without_key_identifiers(tmp_path)
    controller = make_controller(tls=served_context(chain, key, None))
    done = ctl(controller.url, "--ca", str(ca), "agents")
    assert (done.code, done.err) == (0, "")


def test_http_on_a_tls_port_and_a_wrong_token_are_told(make_controller, tmp_path) -> None:
    authority = trustme.CA()
    chain, key = write_pair(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    ca = write_authority(authority, tmp_path / "ca.pem")
    secure = make_controller(tls=served_context(chain, key, None), token=lambda: "secret")
    done = ctl("http" + secure.url.removeprefix("https"), "agents")
    assert done.code == 125
    assert done.err.endswith("it closed the connection: if it speaks TLS, the URL must begin with https\n")
    token = tmp_path / "token"
    token.write_text("another\n")
    wrong = ctl(secure.url, "--ca", str(ca), "--token-file", str(token), "agents")
    missing = ctl(secure.url, "--ca", str(ca), "agents")
    assert (wrong.code, missing.code) == (125, 125)
    assert "the token is not that of this controller: look at --token-file" in wrong.err
    assert "wants its token: give --token-file" in missing.err


def test_environment_proxies_are_not_used(controller) -> None:
    done = ctl(controller.url, "agents", http_proxy="http://127.0.0.1:1", HTTP_PROXY="http://127.0.0.1:1")
    assert done.code == 0


@pytest.mark.parametrize("body", ['{"jobs": [{}]}', '{"id": 7}', '{"jobs": 3, "id": "x", "lines": {}}', "{}"])
def test_an_answer_that_is_not_understood_is_one_line(body: str) -> None:
    """Another version, or something else that answers with JSON."""

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [body.encode()]

    server = WSGIServer(("127.0.0.1", 0), application, log=None)
    server.start()
    try:
        for command in ("jobs", "agents", "top --once", "show x", "logs x", "kill x", "run --gid 1 --nid 2 -- x"):
            done = ctl(f"http://127.0.0.1:{server.server_port}", *command.split())
            assert done.code == 125, (command, done)
            assert done.err.startswith("greenagent-ctl: what answers at http://127.0.0.1:"), command
            assert done.err.count("\n") == 1
    finally:
        server.stop()


def test_an_answer_nested_too_deeply_is_one_line() -> None:
    with answers({"agents": "[" * 100_000}) as url:
        done = ctl(url, "agents")
    assert done == (125, "", f"greenagent-ctl: what answers at {url} is no controller\n")


def test_a_controller_that_ends_meanwhile_is_not_taken_for_one_that_speaks_tls() -> None:
    """It has answered without TLS. On the first request a connection that is closed may mean just that."""
    told = json.dumps({"id": "x", "state": "RUNNING", "kills": [{"gid": 1, "nid": 10, "id": "k"}]}).encode()
    requests: list[bytes] = []

    def serve(connection: Any, address: Any) -> None:
        with connection, connection.makefile("rb") as lines:
            while head := lines.readline():
                requests.append(head)
                length = 0
                while (line := lines.readline()).strip():
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                lines.read(length)
                if not head.startswith(b"POST"):
                    return
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(told), told))

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        killed = ctl(url, "kill", "x")
        first = ctl(url, "agents")
    finally:
        server.stop()
    assert killed == (125, "", f"greenagent-ctl: cannot reach the controller at {url}: it closed the connection\n")
    assert first.err.endswith(": it closed the connection: if it speaks TLS, the URL must begin with https\n")
    assert [head.split()[0] for head in requests] == [b"POST", b"GET", b"GET"]
