"""Trusted connections between real agents and real controllers."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent
import pytest
import requests
import trustme

from tests.support.agents import AgentProcess, StartAgent, configuration
from tests.support.certificates import server_context, write_authority, write_pair
from tests.support.commands import shell
from tests.support.controllers import ControllerProcess, Relay
from tests.support.programs import ROOT
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
PAST = {"not_before": NOW - 9 * DAY, "not_after": NOW - DAY}
FUTURE = {"not_before": NOW + DAY, "not_after": NOW + 9 * DAY}
FAULTS = ("issuer", "name", "expired", "early", "no-client", "wrong-client", "old-client", "plain", "http")
AS_THE_AGENT_SEES_IT = {
    "issuer": "its certificate's issuer is unknown: neither a root of the system nor in certificate_authority",
    "name": "its certificate is for another host name than the URL's",
    "expired": "its certificate has expired",
    "early": "its certificate is not valid yet",
    "no-client": "it wants a client certificate: set client_certificate and client_certificate_key",
    "wrong-client": "it does not accept our client certificate: it does not know the issuer",
    "old-client": "it does not accept our client certificate: it has expired",
    "plain": "it does not speak TLS on this port (plain HTTP on the other side?)",
    "http": "https",
}
AS_THE_CONTROLLER_SEES_IT = {
    "issuer": "it does not accept our certificate: it does not know the issuer",
    "name": "it does not accept our certificate",
    "expired": "it does not accept our certificate: it has expired",
    "early": "it does not accept our certificate",
    "no-client": "it shows no client certificate",
    "wrong-client": "its client certificate's issuer is not in --client-ca",
    "old-client": "its client certificate has expired",
    "http": "it speaks plain HTTP on this TLS port: its URL must begin with https",
}


@pytest.fixture(scope="module")
def ours() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def theirs() -> trustme.CA:
    return trustme.CA()


def section(key: str, url: str, **security: Path) -> str:
    """A controller with its ``security`` section."""
    lines = "".join(f'{name} = "{path}"\n' for name, path in security.items())
    return f'[controllers.{key}]\nurl = "{url}"\n[controllers.{key}.security]\n{lines}\n'


def client(pair: tuple[Path, Path]) -> dict[str, Path]:
    return {"client_certificate": pair[0], "client_certificate_key": pair[1]}


class Fleet:
    """A controller for each fault and a good one, each behind a relay that counts connections."""

    def __init__(self, folder: Path, ours: trustme.CA, theirs: trustme.CA) -> None:
        self.folder = folder
        self.authority = write_authority(ours, folder / "ours.pem")
        self.pair = write_pair(ours.issue_cert("agent"), folder, "agent")
        self._ours = ours
        self._theirs = theirs
        self.controllers = {key: self._controller(key) for key in (*FAULTS, "good")}
        self.relays: dict[str, Relay] = {}

    def start(self) -> None:
        for one in self.controllers.values():
            one.launch()
        for one in self.controllers.values():
            one.await_ready()
        self.relays = {key: Relay(one.port) for key, one in self.controllers.items()}

    def _controller(self, key: str) -> ControllerProcess:
        if key == "plain":
            return ControllerProcess(self.folder, start=False)
        authority = self._theirs if key == "issuer" else self._ours
        name = "elsewhere.example" if key == "name" else "127.0.0.1"
        validity: dict[str, Any] = {"expired": PAST, "early": FUTURE}.get(key, {})
        chain, private = write_pair(authority.issue_cert(name, **validity), self.folder, f"server-{key}")
        options: list[str | Path] = ["--tls-cert", chain, "--tls-key", private]
        if key.endswith("-client"):
            options += ["--client-ca", self.authority]
        # Short polls: one that was begun between two failures shows only by its end that all is well.
        return ControllerProcess(self.folder, *options, limits={"poll": 3.0} if key == "good" else None, start=False)

    def sections(self) -> str:
        return "".join(self._section(key) for key in self.relays)

    def _section(self, key: str) -> str:
        pairs = {
            "wrong-client": write_pair(self._theirs.issue_cert("agent"), self.folder, "wrong"),
            "old-client": write_pair(self._ours.issue_cert("agent", **PAST), self.folder, "old"),
        }
        security = {"certificate_authority": self.authority}
        if key in pairs:
            security |= client(pairs[key])
        return section(key, f"{'http' if key == 'http' else 'https'}://127.0.0.1:{self.relays[key].port}", **security)

    def stop(self) -> None:
        for relay in self.relays.values():
            relay.stop()
        for one in self.controllers.values():
            one.kill()


@pytest.fixture
def fleet(tmp_path: Path, ours: trustme.CA, theirs: trustme.CA) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, ours, theirs)
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.stop()


def said_about(agent: AgentProcess, key: str) -> list[str]:
    return [line for line in agent.stderr.splitlines() if f"controller {key} (" in line]


def test_every_wrong_certificate_is_refused_and_named_once_by_both_sides_and_stops_nothing_else(
    fleet: Fleet, start_agent: StartAgent
) -> None:
    agent = start_agent(controllers={}, more=fleet.sections())
    good = fleet.controllers["good"]
    good.authority = fleet.authority
    good.wait_for_agents("1:10")
    assert good.post(shell("one", "echo hello")) == 202
    assert good.results("one")[0]["streams"] == ["hello\n", ""]

    for key in FAULTS:
        wait_until(lambda key=key: fleet.relays[key].connections >= 8, 30, f"retries at {key}")
    for key in FAULTS:
        lines = said_about(agent, key)
        assert len(lines) == 1, f"{key}: {lines}"
        assert f"127.0.0.1:{fleet.relays[key].port})" in lines[0]
        assert AS_THE_AGENT_SEES_IT[key] in lines[0]
    assert said_about(agent, "good") == []
    for key, words in AS_THE_CONTROLLER_SEES_IT.items():
        lines = fleet.controllers[key].said
        assert len(lines) == 1, f"{key}: {lines}"
        assert "refused a TLS connection from 127.0.0.1: " + words in lines[0], key
    assert fleet.controllers["plain"].said == good.said == []
    for key, one in fleet.controllers.items():
        assert serves(one.url, fleet.pair), f"{key} does not serve any more"

    # Another reason is said, and then that all is well.
    fleet.relays["issuer"].redirect(fleet.controllers["expired"].port)
    # A handshake under way is cut off in the relay, which is a reason of its own in between.
    expired = AS_THE_AGENT_SEES_IT["expired"]
    wait_until(lambda: any(expired in line for line in said_about(agent, "issuer")[1:]), 30, "the other reason")
    for key in ("issuer", "no-client", "plain"):
        fleet.relays[key].redirect(good.port)
    for key in ("issuer", "no-client", "plain"):
        wait_until(lambda key=key: "answers again" in said_about(agent, key)[-1], 40, f"{key} to answer again")
    assert agent.stop() == 0
    assert "Traceback" not in agent.stderr


def serves(url: str, pair: tuple[Path, Path]) -> bool:
    """A client that does not look at the certificate but shows a good one is served."""
    with requests.Session() as session, pytest.warns() if url.startswith("https") else ExitStack():
        session.trust_env = False
        session.verify = False
        session.cert = (str(pair[0]), str(pair[1]))
        return session.get(f"{url}/api/agents", timeout=60).status_code == 200


def test_the_authority_is_an_extra_root_beside_those_of_the_system(
    tmp_path: Path, ours: trustme.CA, theirs: trustme.CA, start_agent: StartAgent
) -> None:
    """One authority is made the system's; each controller has its own, and one of them both."""
    system, extra = write_authority(theirs, tmp_path / "system.pem"), write_authority(ours, tmp_path / "extra.pem")
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(RecordingController(tls=server_context(authority.issue_cert("127.0.0.1")), park=600))
            for authority in (theirs, ours)
        )
        sections = [
            section("alone", one.url),
            section("beside", one.url, certificate_authority=extra),
            section("extra", two.url, certificate_authority=extra),
            section("stranger", two.url),
        ]
        agent = start_agent(controllers={}, more="".join(sections), environment={"SSL_CERT_FILE": str(system)})
        wait_until(lambda: len(one.polls) >= 2, what="both polls that only the system's root vouches for")
        two.wait_for_poll()
        wait_until(lambda: said_about(agent, "stranger"), what="the refusal")
        assert AS_THE_AGENT_SEES_IT["issuer"] in said_about(agent, "stranger")[0]
        for key in ("alone", "beside", "extra"):
            assert said_about(agent, key) == []
        assert len(two.polls) == 1


def test_an_empty_authority_means_the_system_alone(
    tmp_path: Path, ours: trustme.CA, theirs: trustme.CA, start_agent: StartAgent
) -> None:
    system = write_authority(theirs, tmp_path / "system.pem")
    with (
        RecordingController(tls=server_context(theirs.issue_cert("127.0.0.1"))) as known,
        RecordingController(tls=server_context(ours.issue_cert("127.0.0.1"))) as unknown,
    ):
        sections = "".join(
            f'[controllers.{key}]\nurl = "{one.url}"\n[controllers.{key}.security]\nclient_certificate = ""\n'
            'client_certificate_key = ""\ncertificate_authority = ""\n'
            for key, one in (("known", known), ("unknown", unknown))
        )
        agent = start_agent(controllers={}, more=sections, environment={"SSL_CERT_FILE": str(system)})
        known.wait_for_poll()
        wait_until(lambda: said_about(agent, "unknown"), what="the refusal")
        assert AS_THE_AGENT_SEES_IT["issuer"] in said_about(agent, "unknown")[0]
        assert unknown.polls == []


def test_certificates_and_authority_are_replaced_under_a_running_job(
    tmp_path: Path, ours: trustme.CA, theirs: trustme.CA, start_agent: StartAgent
) -> None:
    """The whole trust moves to another authority, at the agent and at two controllers, and no job notices."""
    authority = write_authority(ours, tmp_path / "authority.pem")
    old = ours.issue_cert("agent")
    pair = write_pair(old, tmp_path, "agent")
    server = write_pair(ours.issue_cert("127.0.0.1"), tmp_path, "server")
    context = server_context(ours.issue_cert("127.0.0.1"), client_ca=ours)
    theirs.configure_trust(context)
    options = ("--tls-cert", server[0], "--tls-key", server[1], "--client-ca", authority)
    with RecordingController(tls=context) as recording, ControllerProcess(tmp_path, *options) as real:
        real.authority, real.certificate = authority, pair
        security = {"certificate_authority": authority, **client(pair)}
        sections = section("recording", recording.url, **security) + section("real", real.url, **security)
        agent = start_agent(controllers={}, more=sections)
        real.wait_for_agents("1:10")
        job = "echo $$; i=0; while [ ! -e {0} ]; do echo line $i; i=$((i+1)); sleep 0.02; done; echo ended $i"
        assert real.post(shell("long", job.format(agent.folder / "go"), loglevels_ac="*")) == 202
        wait_until(lambda: any(line["jobid"] == "long" for line in recording.logs), what="lines of the job")
        before = recording.wait_for_poll().peer

        # All at once: what vouches for the servers, what the servers show, whom they let in, who we are.
        write_pair(theirs.issue_cert("127.0.0.1"), tmp_path, "server")
        write_pair(theirs.issue_cert("agent"), tmp_path, "agent")
        write_authority(theirs, authority)
        theirs.issue_cert("127.0.0.1").configure_cert(context)
        wait_until(lambda: recording.polls[-1].peer not in ("", before), 40, "a poll with the new certificate")
        news = "controller {}: certificate files were replaced and are in use now"
        for key in ("recording", "real"):
            wait_until(lambda key=key: news.format(key) in agent.stderr, 40, f"the news about {key}")
        wait_until(lambda: "certificate files were replaced" in real.stderr, 40, "the news at the controller")

        (agent.folder / "go").touch()
        result = real.results("long", 40)[0]
        assert result["state"] == "SUCCESS"
        out = result["streams"][0].splitlines()
        count = int(out[-1].removeprefix("ended "))
        last = f"jobid = 'long' AND data = 'ended {count}'"
        wait_until(lambda: agent.rows(last), what="the last line to be stored, which may be after the result went")
        lines = [row[3] for row in agent.rows("jobid = 'long' AND level = 1")]
        assert lines == [lines[0], *(f"line {number}" for number in range(count)), f"ended {count}"]
        wait_until(lambda: any(line["data"] == f"ended {count}" for line in recording.logs), 20, "the last line")
        # A batch that was on a connection as that was given up comes twice.
        sent = {line["id"]: line["data"] for line in recording.logs if line["jobid"] == "long" and line["level"] == 1}
        assert list(sent.values()) == lines
        assert agent.stop() == 0


def check(folder: Path, text: str) -> tuple[int, list[str]]:
    """``greenagent --check``: the exit code and the lines it prints."""
    path = folder / "check.toml"
    path.write_text(text)
    run = subprocess.run(
        [sys.executable, "-m", "greenagent.cli.agent", "-c", str(path), "--check"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in run.stderr
    return run.returncode, run.stderr.splitlines()


def test_every_faulty_file_is_told_apart_at_the_start(
    tmp_path: Path, ours: trustme.CA, start_agent: StartAgent
) -> None:
    authority = write_authority(ours, tmp_path / "ca.pem")
    certificate, key = write_pair(ours.issue_cert("agent"), tmp_path)
    _, other = write_pair(ours.issue_cert("agent"), tmp_path, "other")
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("hello")
    faults = {
        "missing": ({"client_certificate": tmp_path / "nothing", "client_certificate_key": key}, "does not exist"),
        "mismatch": ({"client_certificate": certificate, "client_certificate_key": other}, "does not match"),
        "rubbish": ({"certificate_authority": rubbish}, "is no PEM file with a certificate"),
        "swapped": ({"client_certificate": key, "client_certificate_key": certificate}, "is no PEM file with a"),
        "keyless": ({"client_certificate": certificate}, "needs client_certificate_key"),
    }
    good = section("good", "https://127.0.0.1:9", certificate_authority=authority, **client((certificate, key)))
    sections = "".join(section(name, "https://127.0.0.1:9", **files) for name, (files, _) in faults.items())
    text = configuration(tmp_path, {}, more=good + sections)
    code, lines = check(tmp_path, text)
    assert code == 1
    for name, (_, words) in faults.items():
        about = [line for line in lines if f"controllers.{name}.security" in line or f"[{name}]" in line]
        assert any(words in line for line in about), f"{name}: {lines}"
    assert not any("good" in line for line in lines)

    agent = start_agent(text=text, wait=False)
    assert agent.wait() == 1
    assert not agent.pid_file.exists()
    assert all(words in agent.stderr for _, words in faults.values())


def test_a_key_that_others_can_read_is_a_warning_and_the_agent_runs(
    tmp_path: Path, ours: trustme.CA, start_agent: StartAgent
) -> None:
    authority = write_authority(ours, tmp_path / "ca.pem")
    pair = write_pair(ours.issue_cert("agent"), tmp_path)
    pair[1].chmod(0o644)
    with RecordingController(tls=server_context(ours.issue_cert("127.0.0.1"), client_ca=ours)) as controller:
        sections = section("main", controller.url, certificate_authority=authority, **client(pair))
        code, lines = check(tmp_path, configuration(tmp_path, {}, more=sections))
        assert code == 0
        assert any(
            re.search(r"^greenagent: warning: .*can be read by every user, run: chmod o=", line) for line in lines
        ), lines
        agent = start_agent(controllers={}, more=sections)
        assert controller.wait_for_poll().peer
        agent.await_said("can be read by every user")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", r"--tls-cert \S+ does not exist"),
        ("mismatch", r"--tls-key \S+ does not match --tls-cert \S+"),
        ("rubbish", r"--client-ca \S+ is no PEM file with a certificate"),
        ("damaged", r"--tls-cert \S+ is damaged: it cannot be decoded"),
        ("encrypted", r"--tls-key \S+ is protected by a pass phrase"),
        ("keyless", r"--tls-cert \S+ is no PEM file with a private key"),
    ],
)
def test_the_controller_tells_its_own_faulty_files_apart(
    tmp_path: Path, ours: trustme.CA, fault: str, words: str
) -> None:
    certificate, key = write_pair(ours.issue_cert("127.0.0.1"), tmp_path)
    options: list[str | Path] = ["--tls-cert", certificate, "--tls-key", key]
    if fault == "missing":
        certificate.unlink()
    elif fault == "mismatch":
        options[-1] = write_pair(ours.issue_cert("127.0.0.1"), tmp_path, "other")[1]
    elif fault == "rubbish":
        (tmp_path / "rubbish").write_text("hello")
        options += ["--client-ca", tmp_path / "rubbish"]
    elif fault == "damaged":
        certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    elif fault == "encrypted":
        key.write_bytes(encrypted_key())
    else:
        del options[2:]
    controller = ControllerProcess(tmp_path, *options, start=False)
    controller.launch()
    assert controller.wait() == 1
    assert re.fullmatch(rf"greenagent-controller: {words}[^\n]*\n", controller.stderr), controller.stderr


def encrypted_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


def test_a_handshake_that_hangs_keeps_nobody_out(tmp_path: Path, ours: trustme.CA, start_agent: StartAgent) -> None:
    authority = write_authority(ours, tmp_path / "ca.pem")
    chain, key = write_pair(ours.issue_cert("127.0.0.1"), tmp_path, "server")
    options = ("--tls-cert", chain, "--tls-key", key)
    with ControllerProcess(tmp_path, *options, limits={"handshake": 1.0}) as controller, ExitStack() as stack:
        controller.authority = authority
        for _ in range(30):
            stack.enter_context(gevent.socket.create_connection(("127.0.0.1", controller.port)))
        start_agent(controllers={}, more=section("main", controller.url, certificate_authority=authority))
        # On a busy machine a handshake of ours may take more than that second as well.
        wait_until(lambda: served(controller.live) == {"1:10"}, what="the agent to be live")
        assert served(controller.post, shell("one", "echo hello")) in (202, 409), "or by a try whose answer was lost"
        wait_until(lambda: served(controller.get, "jobs/one")["state"] == "SUCCESS", what="the job")
        wait_until(lambda: "no handshake within 1 s" in controller.stderr, what="the refusal")
        assert controller.stderr.count("no handshake within") == 1


def served(ask: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, from the first connection that is let in."""

    def answer() -> tuple[Any] | None:
        try:
            return (ask(*arguments),)
        except requests.ConnectionError:
            return None

    return wait_until(answer, what="an answer")[0]


def test_the_page_has_every_refusal_as_it_is_said() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    for words in (*AS_THE_AGENT_SEES_IT.values(), *AS_THE_CONTROLLER_SEES_IT.values()):
        assert words in page
