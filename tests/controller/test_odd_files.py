"""Pipes, folders and devices in the place of the controller's files: it refuses them at once and goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from tests.support.certificates import write_authority, write_pair
from tests.support.controllers import ControllerProcess
from tests.support.local_controller import plain
from tests.support.programs import ROOT, command, environment, refused
from tests.support.waiting import wait_until

OTHERS: dict[str, Callable[[Path], None]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_controller_goes_on_when_something_else_takes_the_place_of_its_token(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "token"
    path.write_text("secret-word-of-32-characters-long")
    path.chmod(0o600)
    with ControllerProcess(tmp_path, "--token-file", path) as controller:

        def asked() -> int:
            headers = {"Authorization": "Bearer secret-word-of-32-characters-long"}
            return plain().get(f"{controller.url}/api/agents", headers=headers, timeout=60).status_code

        assert asked() == 200
        path.unlink()
        OTHERS[kind](path)
        assert asked() == 200
        assert plain().get(f"{controller.url}/1/10/ping", timeout=60).status_code == 200
        said = f"cannot read the token file {path}: it is a {kind}, not a file; the token before is still asked for"
        wait_until(lambda: said in controller.stderr_file.read_text(), what="it to be said")


@pytest.mark.parametrize("option", ["--tls-cert", "--tls-key", "--client-ca", "--token-file"])
def test_a_controller_whose_file_is_a_pipe_does_not_start(tmp_path: Path, option: str) -> None:
    authority = trustme.CA()
    chain, key = write_pair(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    files = {"--tls-cert": chain, "--tls-key": key, "--client-ca": write_authority(authority, tmp_path / "ca.pem")}
    os.mkfifo(tmp_path / "pipe")
    options = [str(word) for pair in {**files, option: tmp_path / "pipe"}.items() for word in pair]
    said = refused(*options)
    assert option.removeprefix("--").replace("-file", " file") in said
    assert said.endswith("it is a pipe, not a file")


def test_a_controller_goes_on_when_a_pipe_takes_the_place_of_a_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    chain, key = write_pair(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    ca = write_authority(authority, tmp_path / "ca.pem")
    mine = write_pair(authority.issue_cert("agent"), tmp_path, "agent")
    trusted = write_authority(authority, tmp_path / "trusted.pem")
    options = ("--tls-cert", chain, "--tls-key", key, "--client-ca", ca)
    with ControllerProcess(tmp_path, *options) as controller:

        def ping() -> int:
            session = plain()
            session.verify, session.cert = str(trusted), tuple(map(str, mine))
            return session.get(f"{controller.url}/1/10/ping", timeout=60).status_code

        assert ping() == 200
        chain.unlink()
        os.mkfifo(chain)
        said = f"{chain} cannot be read: it is a pipe, not a file; the certificates read before stay in use"
        wait_until(lambda: said in controller.stderr_file.read_text(), 20, "it to be said")
        assert ping() == 200


@pytest.mark.parametrize("option", ["--ca", "--cert", "--key", "--token-file"])
def test_people_are_told_that_their_file_is_a_pipe(tmp_path: Path, option: str) -> None:
    authority = trustme.CA()
    chain, key = write_pair(authority.issue_cert("me"), tmp_path, "me")
    files = {"--ca": write_authority(authority, tmp_path / "ca.pem"), "--cert": chain, "--key": key}
    os.mkfifo(tmp_path / "pipe")
    given = [word for pair in {**files, option: tmp_path / "pipe"}.items() for word in pair]
    done = subprocess.run(
        command("ctl", "--url", "https://127.0.0.1:1", *given, "agents"),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=60,
    )
    assert (done.returncode, done.stderr.count("\n")) == (125, 1)
    assert option in done.stderr
    assert done.stderr.endswith("it is a pipe, not a file\n")


def test_people_may_hand_their_token_over_by_a_pipe(tmp_path: Path) -> None:
    """``--token-file <(command)`` of a shell, for the controller, too."""
    token = "secret-word-of-32-characters-long"
    reader, writer = os.pipe()
    os.write(writer, token.encode())
    os.close(writer)
    path = tmp_path / "token"
    path.write_text(token)
    path.chmod(0o600)
    with ControllerProcess(tmp_path, "--token-file", path) as controller:
        done = subprocess.run(
            command("ctl", "--url", controller.url, "--token-file", "/dev/stdin", "agents", "--json"),
            stdin=reader,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(),
            timeout=60,
        )
        assert (done.stdout, done.stderr) == ('{"agents": []}\n', "")
    os.close(reader)
