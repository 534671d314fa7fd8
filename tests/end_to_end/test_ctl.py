"""``greenagent-ctl`` as a process, at a real controller with real agents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.support.agents import AgentProcess, StartAgent, configuration
from tests.support.certificates import write_authority, write_pair
from tests.support.controllers import ControllerProcess
from tests.support.programs import ROOT, Ctl, Done, without_waiting
from tests.support.recording_controller import RecordingController, rubbish, status
from tests.support.waiting import wait_until

NODE = ("--gid", "1", "--nid", "10")


def ctl(*arguments: str, **variables: str) -> Done:
    """A run in an environment of its own."""
    return Ctl(*arguments, **variables).done()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[ControllerProcess]:
    with ControllerProcess(tmp_path) as controller:
        yield controller


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """With two agents: 1:10 with the role web, 1:11 with web and db. All tests have the same ones."""
    folder = tmp_path_factory.mktemp("served")
    agents: list[AgentProcess] = []
    with ControllerProcess(folder) as controller:
        try:
            for nid, roles in (("10", ["web"]), ("11", ["web", "db"])):
                place = folder / nid
                place.mkdir()
                text = configuration(place, {"main": controller.url}, roles=roles)
                agents.append(AgentProcess(place, text, "--nid", nid).start())
            controller.wait_for_agents("1:10", "1:11")
            yield controller
        finally:
            for agent in agents:
                agent.clean_up()


def test_the_first_configuration_of_the_readme_shows_jobs_live(
    plain: ControllerProcess, start_agent: StartAgent
) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "http://127.0.0.1:8966" in text
    agent = start_agent(text=text.replace("http://127.0.0.1:8966", plain.url))
    plain.wait_for_agents("1:10")
    script = "echo one; echo two >&2; until [ -e go ]; do sleep 0.1; done"
    assert plain.ctl("run", *NODE, "--detach", "--id", "live", "--", "sh", "-c", script).out == "live\n"
    followed = Ctl("--url", plain.url, "logs", "--follow", "live")
    wait_until(lambda: {"one", "two"} <= set((followed.out + followed.err).split()), 15, "its lines while it runs")
    (agent.folder / "go").touch()
    assert followed.done().code == 0


def test_the_agents_as_a_table_and_as_json(served: ControllerProcess) -> None:
    shown = served.ctl("agents")
    assert (shown.code, shown.err) == (0, "")
    head, *rows = shown.out.splitlines()
    assert head.split("  ")[0] == "AGENT"
    assert [re.split(r"\s{2,}", row)[:2] for row in rows] == [["1:10", "live"], ["1:11", "live"]]
    assert rows[1].endswith("web,db")
    value = served.ctl("agents", "--json").value
    assert [(one["gid"], one["nid"], one["roles"]) for one in value["agents"]] == [
        (1, 10, ["web"]),
        (1, 11, ["web", "db"]),
    ]


@pytest.mark.parametrize(
    ("options", "command", "code", "words"),
    [
        ((), ("true",), 0, ""),
        ((), ("sh", "-c", "exit 7"), 7, ""),
        ((), ("sh", "-c", "kill -SEGV $$"), 139, "SIGSEGV"),
        ((), ("no-such-program",), 127, "no-such-program"),
        ((), ("/etc/passwd",), 126, "not executable"),
        (("--max-time", "1"), ("sleep", "1000"), 124, "TIMEOUT"),
        (("--cmd", "no-such-command"), (), 127, "UNKNOWN_CMD"),
        (("--args-json", "{"), ("true",), 125, "--args-json is not JSON"),
    ],
    ids=["success", "code", "signal", "missing", "no program", "timeout", "unknown", "usage"],
)
def test_the_exit_code_is_the_outcome(
    served: ControllerProcess, options: tuple[str, ...], command: tuple[str, ...], code: int, words: str
) -> None:
    run = served.run(*NODE, *options, "--", *command)
    assert run.code == code, run
    assert words in run.err
    assert len(run.err.splitlines()) <= 1
    assert "Traceback" not in run.err


def test_a_killed_job_is_137(served: ControllerProcess) -> None:
    run = Ctl("--url", served.url, "run", *NODE, "--id", "long", "--", "sleep", "1000")
    wait_until(lambda: any(job["id"] == "long" for job in served.get("jobs")["jobs"]), what="the job")
    wait_until(lambda: served.get("jobs/long")["state"] == "RUNNING", what="the job to run")
    assert any(job["id"] == "long" for job in served.ctl("jobs", "--json").value["jobs"])
    killed = served.ctl("kill", "long")
    assert (killed.code, killed.out, killed.err) == (0, "job long: KILLED\n", "")
    assert run.done().code == 137


def test_no_such_agent_is_125_unless_it_is_waited_for(plain: ControllerProcess, start_agent: StartAgent) -> None:
    start_agent(controllers={"main": plain.url}, roles=["web"])
    plain.wait_for_agents("1:10")
    for target in (("--gid", "1", "--nid", "99"), ("--role", "mail")):
        run = plain.run(*target, "--", "true")
        assert (run.code, run.out) == (125, "")
        assert "No matching connected agents found" in run.err
        assert len(run.err.splitlines()) == 1
    waiting = Ctl("--url", plain.url, "run", "--gid", "1", "--nid", "99", "--wait-for-agent", "600", "--", "echo", "hi")
    wait_until(lambda: any(job["state"] == "QUEUED" for job in plain.get("jobs")["jobs"]), what="the waiting job")
    start_agent("--nid", "99", controllers={"main": plain.url})
    run = waiting.done()
    assert (run.code, run.out) == (0, "hi\n")


def test_a_role_and_fanout_with_prefixes(served: ControllerProcess) -> None:
    one = served.run("--role", "web", "--role", "db", "--", "sh", "-c", "echo $AGENT_NID")
    assert (one.code, one.out) == (0, "11\n")
    script = "echo one; echo two >&2; echo three; exit $((AGENT_NID - 5))"
    every = served.run("--role", "web", "--fanout", "--", "sh", "-c", script)
    assert every.code == 6, "the highest of both"
    assert sorted(every.out.splitlines()) == ["1:10 one", "1:10 three", "1:11 one", "1:11 three"]
    assert [line for line in every.out.splitlines() if line.startswith("1:10")] == ["1:10 one", "1:10 three"]
    assert {"1:10 two", "1:11 two"} <= set(every.err.splitlines())
    *lines, last = every.err.splitlines()
    assert all(line.startswith(("1:10 ", "1:11 ")) for line in lines)
    assert last == "greenagent-ctl: 2 agents: 0 ok, 2 failed: 1:10 1:11"


def test_stdin_becomes_data(served: ControllerProcess) -> None:
    text = "".join(f"line {number} äöü\n" for number in range(5000))
    run = served.run(*NODE, "--data", "-", "--", "wc", "-c", stdin=text)
    assert (run.code, run.out.strip()) == (0, str(len(text.encode())))
    given = served.run(*NODE, "--data", "short", "--", "cat")
    assert (given.code, given.out) == (0, "short\n")


def test_jobs_of_one_queue_run_one_after_the_other(served: ControllerProcess, tmp_path: Path) -> None:
    script = f"[ -e {tmp_path}/busy ] && echo together; touch {tmp_path}/busy; sleep 0.2; rm {tmp_path}/busy"
    runs = [Ctl("--url", served.url, "run", *NODE, "--queue", "q", "--", "sh", "-c", script) for _ in range(4)]
    assert [run.done()[:2] for run in runs] == [(0, "")] * 4, "nothing ran together"


def test_a_detached_job_shows_its_id_and_goes_on(served: ControllerProcess) -> None:
    run = served.run(*NODE, "--detach", "--", "echo", "later")
    assert run.code == 0
    assert served.results(run.out.strip())[0]["streams"] == ["later\n", ""]


def test_a_controller_that_is_away_or_is_none(plain: ControllerProcess, controller: RecordingController) -> None:
    url = plain.url
    plain.kill()
    controller.misbehave("*", rubbish())
    for arguments in (("agents",), ("run", *NODE, "--", "true"), ("jobs",), ("show", "x"), ("kill", "x")):
        run = ctl("--url", url, *arguments)
        assert run.code == 125
        assert run.out == ""
        assert run.err.startswith(f"greenagent-ctl: cannot reach the controller at {url}: Connection refused")
    other = ctl("--url", controller.url, "agents")
    assert other.code == 125
    assert re.fullmatch(r"greenagent-ctl: [^\n]+\n", other.err)
    assert ctl("--url", "ftp://x", "agents").code == 125


def test_tls_options_also_from_the_environment_and_every_refusal_in_one_line(tmp_path: Path) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    authority = write_authority(ours, tmp_path / "ca.pem")
    chain, key = write_pair(ours.issue_cert("127.0.0.1"), tmp_path, "server")
    good = write_pair(ours.issue_cert("person"), tmp_path, "person")
    wrong = write_pair(theirs.issue_cert("person"), tmp_path, "wrong")
    token = tmp_path / "token"
    token.write_text("secret-word\n")
    options = ("--tls-cert", chain, "--tls-key", key, "--client-ca", authority, "--token-file", token)
    with ControllerProcess(tmp_path, *options) as controller:
        everything = {
            "GREENAGENT_CTL_URL": controller.url,
            "GREENAGENT_CTL_CA": str(authority),
            "GREENAGENT_CTL_CERT": str(good[0]),
            "GREENAGENT_CTL_KEY": str(good[1]),
            "GREENAGENT_CTL_TOKEN_FILE": str(token),
        }
        assert ctl("agents", "--json", **everything).value == {"agents": []}
        flags = ("--ca", authority, "--cert", good[0], "--key", good[1], "--token-file", token)
        assert controller.ctl(*flags, "agents", "--json").value == {"agents": []}
        assert ctl("agents", *flags, "--json", "--url", controller.url).value == {"agents": []}

        refusals = {
            (): "issuer is unknown: name the authority with --ca",
            ("--ca", authority): "it wants a client certificate: give --cert and --key",
            (
                "--ca",
                authority,
                "--cert",
                wrong[0],
                "--key",
                wrong[1],
            ): "it does not accept our client certificate (--cert): it does not know the issuer",
            flags[:6]: "wants its token",
            ("--ca", tmp_path / "nothing"): "does not exist",
        }
        for given, words in refusals.items():
            run = controller.ctl(*given, "agents")
            assert run.code == 125, run
            assert re.fullmatch(r"greenagent-ctl: [^\n]+\n", run.err), run
            assert words in run.err.lower(), run
            assert "secret-word" not in run.err
        run = ctl("--url", controller.url.replace("https", "http"), "agents")
        assert run.code == 125
        assert re.fullmatch(r"greenagent-ctl: [^\n]+\n", run.err), run
        assert ctl("agents", "--json", **everything).code == 0, "it goes on"


def test_a_refusal_is_one_line(controller: RecordingController, served: ControllerProcess) -> None:
    for arguments, code in ((("show", "nothing"), 1), (("kill", "nothing"), 1), (("logs", "nothing"), 1)):
        run = served.ctl(*arguments)
        assert run.code == code
        assert re.fullmatch(r"greenagent-ctl: the controller at \S+ refuses \(404\): [^\n]+\n", run.err), run
    assert served.run(*NODE, "--id", "once", "--", "true").code == 0
    again = served.run(*NODE, "--id", "once", "--", "true")
    assert again.code == 125
    assert "is known already" in again.err
    controller.misbehave("*", status(503))
    assert ctl("--url", controller.url, "agents").code == 125


def test_a_prompt_is_shown_before_it_is_a_line(plain: ControllerProcess, start_agent: StartAgent) -> None:
    agent = start_agent(controllers={"main": plain.url})
    plain.wait_for_agents("1:10")
    script = "printf 'Proceed? '; while [ ! -e go ]; do sleep 0.1; done; echo yes"
    run = Ctl(
        "--url", plain.url, "run", *NODE, "--id", "asks", "--working-dir", str(agent.folder), "--", "sh", "-c", script
    )
    wait_until(lambda: without_waiting(run.err) == "Proceed?  [unfinished]\n", what="the prompt")
    assert run.out == ""
    shown = plain.ctl("logs", "asks")
    assert shown.out.endswith("1:10 stdout    Proceed?  [unfinished]\n")
    (agent.folder / "go").touch()
    assert run.done() == (0, "Proceed? yes\n", "Proceed?  [unfinished]\n")
    assert plain.get("jobs/asks/logs")["open"] == []


def test_every_line_of_a_chatty_job_is_shown_whatever_it_says(
    plain: ControllerProcess, start_agent: StartAgent
) -> None:
    start_agent(controllers={"main": plain.url})
    plain.wait_for_agents("1:10")
    run = plain.run(*NODE, "--", "sh", "-c", "yes | head -n 60000; echo err >&2; echo 7::warning")
    assert (run.code, run.out) == (0, "y\n" * 60_000)
    # They come through two pipes of the job: which is read first is open.
    assert sorted(run.err.splitlines()) == ["err", "warning"]
    [result] = plain.get("jobs")["jobs"]
    [shown] = plain.get(f"jobs/{result['id']}")["results"]
    assert shown["lines"] == {"1": 60_000, "2": 1, "7": 1}


def test_the_agents_last_words_about_a_job_are_waited_for(plain: ControllerProcess, start_agent: StartAgent) -> None:
    """What the cap of its log left out was said after the lines had been counted, and so not seen."""
    start_agent(controllers={"main": plain.url}, main="max_log_per_job = 2000")
    plain.wait_for_agents("1:10")
    run = plain.run(*NODE, "--id", "capped", "--max-restart", "1", "--", "sh", "-c", "seq 1000; exit 3")
    *said, gave_up, ended = run.err.splitlines()
    assert gave_up == "greenagent: given up after 1 restarts", "no cap leaves that out"
    counts = [
        int(line.removesuffix(" lines of this job were not stored: it passed max_log_per_job = 2000 bytes"))
        for line in said
    ]
    assert counts[-1] > 0, "after all others"
    shown = len(run.out.splitlines())
    assert sum(counts) + shown == 2000
    assert ended == "greenagent-ctl: job capped on 1:10 ended ERROR: exit code 3"
    assert run.code == 3
    [result] = plain.results("capped")
    assert result["lines"] == {"1": shown, "7": len(said), "9": 1}


def test_a_job_that_has_not_begun_is_explained(plain: ControllerProcess, start_agent: StartAgent) -> None:
    """It waited in silence, for an agent that had died seconds ago or was full."""
    agent = start_agent(controllers={"main": plain.url}, max_jobs=1)
    plain.wait_for_agents("1:10")
    go = agent.folder / "go"
    assert plain.run(*NODE, "--detach", "--", "sh", "-c", f"until [ -e {go} ]; do sleep 0.1; done").code == 0
    full = Ctl("--url", plain.url, "run", *NODE, "--queue", "q", "--", "echo", "full")
    why = "greenagent-ctl: handed over to 1:10, waits there for its queue 'q' or a slot\n"
    wait_until(lambda: full.err.endswith(why), what="the reason")
    go.touch()
    assert full.done()[:2] == (0, "full\n")
    agent.kill()
    wait_until(lambda: not plain.get("agents")["agents"][0]["polling"], what="the controller to note it")
    dead = Ctl("--url", plain.url, "run", *NODE, "--", "echo", "late")
    wait_until(lambda: dead.err.endswith("\n"), what="the reason")
    assert re.fullmatch(r"greenagent-ctl: waiting for 1:10 \(last contact \d+ s ago\)\n", dead.err)
    agent.start()
    assert dead.done()[:2] == (0, "late\n")


def test_a_job_behind_another_of_its_queue_waits_and_is_not_called_running(
    plain: ControllerProcess, start_agent: StartAgent
) -> None:
    agent = start_agent(controllers={"main": plain.url})
    plain.wait_for_agents("1:10")
    script = f"until [ -e {agent.folder}/$0 ]; do sleep 0.05; done"
    for name in ("first", "second"):
        asked = ("run", *NODE, "--detach", "--id", name, "--queue", "q", "--", "sh", "-c", script, name)
        assert plain.ctl(*asked).code == 0

    def shown() -> list[str]:
        return [line.split()[1] for line in plain.ctl("jobs").out.splitlines()[1:]]

    wait_until(lambda: shown() == ["WAITING", "RUNNING"], what="the second to be known to wait")
    assert "1:10 WAITING\n" in plain.ctl("show", "second").out
    assert "waits for its turn there" in plain.ctl("show", "second").out
    (agent.folder / "first").touch()
    wait_until(lambda: shown() == ["RUNNING", "SUCCESS"], what="the second to be known to run")
    (agent.folder / "second").touch()
    wait_until(lambda: shown() == ["SUCCESS", "SUCCESS"], what="the end")
    second, first = (job["agents"][0] for job in plain.ctl("jobs", "--json").value["jobs"])
    assert second["started"] > first["started"] + first["took"] - 0.1
