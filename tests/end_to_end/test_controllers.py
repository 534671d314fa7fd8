"""Several controllers at one agent, and the embedded controller killed under load."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import gevent
import pytest
import requests
import trustme

from tests.support.agents import StartAgent
from tests.support.certificates import server_context, write_authority
from tests.support.commands import execute, shell
from tests.support.controllers import ControllerProcess
from tests.support.recording_controller import RecordingController, hang, rubbish, status
from tests.support.waiting import wait_until

JOBS = 100


@pytest.mark.parametrize("first", ["good", "bad"])
def test_one_that_is_silent_refuses_or_sends_rubbish_slows_no_other(
    tmp_path: Path, start_agent: StartAgent, first: str
) -> None:
    """A single wait for one of the bad ones lasts 60 s and more, so the deadline would not be met."""
    with (
        ControllerProcess(tmp_path) as good,
        RecordingController() as silent,
        RecordingController() as refusing,
        RecordingController() as rubbishing,
    ):
        silent.misbehave("*", hang())
        refusing.misbehave("*", status(403))
        rubbishing.misbehave("*", rubbish())
        bad = {"silent": silent.url, "refusing": refusing.url, "rubbish": rubbishing.url, "away": "http://127.0.0.1:9"}
        known = {"good": good.url, **bad} if first == "good" else {**bad, "good": good.url}
        agent = start_agent(controllers=known, drain_timeout=1)
        good.wait_for_agents("1:10")
        wait_until(lambda: silent.connections and refusing.polls and rubbishing.polls, what="the bad ones to be asked")
        names = [f"job{number}" for number in range(JOBS)]
        for name in names:
            assert good.post(execute(name, "true", loglevels_ac="*")) == 202
        for name in names:
            assert good.results(name, 15)[0]["state"] == "SUCCESS"
        for one in (silent, refusing, rubbishing):
            assert not [post for post in one.refused_posts if post.endpoint == "result"], (
                "a result that nobody there asked for"
            )
        for key in ("refusing", "rubbish", "away"):
            wait_until(lambda key=key: f"controller {key} (" in agent.stderr, what=f"a word about {key}")
        lines = [line for line in agent.stderr.splitlines() if "controller good" in line]
        assert lines == []
        assert agent.stop() == 0


def test_results_go_to_the_asking_one_alone(start_agent: StartAgent) -> None:
    with RecordingController() as one, RecordingController() as two:
        start_agent(controllers={"one": one.url, "two": two.url})
        for number in range(10):
            one.push(shell(f"one{number}", "true"))
            two.push(shell(f"two{number}", "true"))
        for number in range(10):
            one.wait_for_result(f"one{number}")
            two.wait_for_result(f"two{number}")
        assert {result["id"][:3] for result in one.results} == {"one"}
        assert {result["id"][:3] for result in two.results} == {"two"}


def test_a_result_waits_for_its_controller_and_holds_up_no_other(start_agent: StartAgent) -> None:
    with RecordingController() as one, RecordingController() as two:
        start_agent(controllers={"one": one.url, "two": two.url})
        one.wait_for_poll()
        two.wait_for_poll()
        one.misbehave("result", status(503))
        one.push(shell("early", "true"))
        wait_until(lambda: one.refused_posts, what="the refusal")
        for number in range(20):
            two.push(shell(f"two{number}", "true"))
            two.wait_for_result(f"two{number}")
        assert one.results == []
        one.behave()
        assert one.wait_for_result("early", 40)["state"] == "SUCCESS"
        assert two.results_of("early") == []


def test_each_controller_has_its_own_authority(tmp_path: Path, start_agent: StartAgent) -> None:
    """The authority of one says nothing about the other: swapped, both are refused."""
    first, second = trustme.CA(), trustme.CA()
    files = [write_authority(ca, tmp_path / f"{name}.pem") for name, ca in (("first", first), ("second", second))]
    with (
        RecordingController(tls=server_context(first.issue_cert("127.0.0.1"))) as one,
        RecordingController(tls=server_context(second.issue_cert("127.0.0.1"))) as two,
    ):

        def sections(*authorities: Path) -> str:
            return "".join(
                f'[controllers.{key}]\nurl = "{controller.url}"\n'
                f'[controllers.{key}.security]\ncertificate_authority = "{authority}"\n'
                for key, controller, authority in zip(("one", "two"), (one, two), authorities, strict=True)
            )

        swapped = start_agent(controllers={}, more=sections(*reversed(files)))
        for key in ("one", "two"):
            refusal = rf"controller {key} \(.*issuer is unknown"
            wait_until(lambda refusal=refusal: re.search(refusal, swapped.stderr), what=f"the refusal of {key}")
        assert swapped.stop() == 0
        assert not one.polls
        assert not two.polls
        right = start_agent(controllers={}, more=sections(*files))
        for controller, name in ((one, "a"), (two, "b")):
            controller.push(shell(name, "true"))
            assert controller.wait_for_result(name)["state"] == "SUCCESS"
        assert "unknown" not in right.stderr


def test_polls_statistics_and_lines_go_to_those_that_are_named(tmp_path: Path, start_agent: StartAgent) -> None:
    with RecordingController() as both, RecordingController() as lines, RecordingController() as figures:
        folder = tmp_path / "agent"
        folder.mkdir()
        start_agent(
            folder=folder,
            text=f"""
[main]
gid = 1
nid = 10
message_id_file = "{folder}/mid"
history_file = "{folder}/history"
[controllers.both]
url = "{both.url}"
[controllers.lines]
url = "{lines.url}"
[controllers.figures]
url = "{figures.url}"
[channel]
cmds = ["both"]
[logging.ac]
type = "AC"
flush_int = 1
controllers = ["both", "lines"]
levels = [1]
[stats]
interval = 1
controllers = ["both", "figures"]
""",
        )
        both.push(shell("job", "echo hello; echo 10::a.b:1\\|c"))
        both.wait_for_result("job")
        for one in (both, lines):
            wait_until(lambda one=one: [line for line in one.logs if line["data"] == "hello"], what="the line")
        for one in (both, figures):
            wait_until(lambda one=one: one.stats, what="statistics")
        assert not lines.polls
        assert not figures.polls
        assert not lines.stats
        assert not figures.logs
        assert not [one for one in (lines, figures) if one.results]


def test_a_controller_killed_under_load_forgets_no_job_and_no_result(tmp_path: Path, start_agent: StartAgent) -> None:
    """Killed again and again while jobs are posted, handed out, run and reported: each runs exactly once."""
    controller = ControllerProcess(tmp_path, "--state", tmp_path / "state.db")
    with controller:
        agent = start_agent(controllers={"main": controller.url}, max_jobs=8)
        controller.wait_for_agents("1:10")
        names = [f"job{number}" for number in range(JOBS)]
        posted = 0

        def post_all() -> None:
            nonlocal posted
            for name in names:
                command = shell(name, f'echo {name} >>{agent.folder}/ran; sleep 0.1; echo "out {name}"')
                # A controller that has just come back knows no live agent yet, which would be an error.
                post_for_sure(controller, {**command, "wait_for_agent": 60})
                posted += 1

        poster = gevent.spawn(post_all)
        for count in itertools.count(1):
            wait_until(lambda count=count: posted >= min(JOBS, count * 20) or poster.ready(), 60, "more jobs")
            controller.kill()
            controller.start()
            if poster.ready():
                break
        poster.get(timeout=60)
        assert count >= 4
        for name in names:
            results = controller.results(name, 60)
            assert [result["state"] for result in results] == ["SUCCESS"]
            assert results[0]["streams"] == [f"out {name}\n", ""]
        ran = Counter((agent.folder / "ran").read_text().split())
        assert ran == dict.fromkeys(names, 1)

        controller.kill()
        controller.start()
        listed = controller.get("jobs")["jobs"]
        assert {job["id"]: job["state"] for job in listed} == dict.fromkeys(names, "SUCCESS")
        assert controller.results("job0")[0]["streams"] == ["out job0\n", ""]
        assert "internal error" not in controller.stderr


def post_for_sure(controller: ControllerProcess, command: dict[str, object]) -> None:
    """Posts until it is accepted; 409 means that an earlier try was, whose answer was lost."""

    def accepted() -> bool:
        try:
            return controller.post(command) in (202, 409)
        except requests.RequestException:
            return False

    wait_until(accepted, 30, f"{command['id']} to be accepted", interval=0.05)
