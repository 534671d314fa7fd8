"""Settings from the environment and from flags, over those of the file (design, section 5 "Settings")."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.agents import StartAgent, configuration
from tests.support.commands import shell
from tests.support.programs import ROOT
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def printed(folder: Path, *options: str, text: str = "", **variables: str) -> tuple[dict[str, str], str]:
    """The lines of ``--print-config`` by setting, and what it complains about."""
    path = folder / "settings.toml"
    path.write_text(text or configuration(folder, {"main": "https://user:geheim@127.0.0.1:9/base"}, roles=["file"]))
    run = subprocess.run(
        [sys.executable, "-m", "greenagent.cli.agent", "-c", str(path), "--print-config", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in run.stderr
    return dict(line.split(" = ", 1) for line in run.stdout.splitlines()), run.stderr


def test_every_value_is_shown_with_its_origin_and_the_stronger_one_wins(tmp_path: Path) -> None:
    variables = {
        "GREENAGENT_MAIN_NID": "77",
        "GREENAGENT_MAIN_GID": "5",
        "GREENAGENT_MAIN_ROLES": "variable,other",
        "GREENAGENT_STATS_INTERVAL": "30",
        "GREENAGENT_CHANNEL_CMDS": "main",
    }
    shown, complaints = printed(tmp_path, "--gid", "6", "--roles", "flag,last", **variables)
    assert complaints == ""
    assert shown["main.gid"] == "6  # flag"
    assert shown["main.nid"] == "77  # environment"
    assert shown["main.roles"] == '["flag", "last"]  # flag'
    assert shown["main.kill_grace"] == "2  # file"
    assert shown["main.result_memory"] == "86400  # default"
    assert shown["stats.interval"] == "30  # environment"
    assert shown["channel.cmds"] == '["main"]  # environment'
    assert all(re.search(r"  # (default|file|environment|flag)$", value) for value in shown.values())
    assert printed(tmp_path)[0]["main.roles"] == '["file"]  # file'


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    text = configuration(
        tmp_path,
        {"main": "https://user:geheim@127.0.0.1:9/base"},
        more='[extensions.x]\nbinary = "true"\n'
        '[extensions.x.env]\nDB_PASSWORD = "geheim"\nAPI_TOKEN = "geheim"\nPLAIN = "seen"\n',
    )
    shown, complaints = printed(tmp_path, text=text)
    everything = repr(shown) + complaints
    assert "geheim" not in everything
    assert "127.0.0.1:9/base" in everything
    assert "PLAIN" in everything
    assert "seen" not in everything, "whatever its name is: it may be one"
    shown, _ = printed(tmp_path, "--show-secrets", text=text)
    assert "seen" in repr(shown)
    assert "geheim" in repr(shown)


def test_an_unknown_variable_is_a_warning_and_a_wrong_value_an_error_that_names_it(tmp_path: Path) -> None:
    shown, complaints = printed(tmp_path, GREENAGENT_MAIN_ROLLS="x")
    assert shown["main.roles"] == '["file"]  # file'
    assert re.fullmatch(r"greenagent: warning: [^\n]*GREENAGENT_MAIN_ROLLS[^\n]*\n", complaints), complaints
    shown, complaints = printed(tmp_path, GREENAGENT_MAIN_NID="seven")
    assert shown == {}
    assert re.fullmatch(r"greenagent: [^\n]*GREENAGENT_MAIN_NID[^\n]*\n", complaints), complaints


def test_an_agent_started_so_really_polls_so(controller: RecordingController, start_agent: StartAgent) -> None:
    agent = start_agent(
        "--roles",
        "flag,last",
        roles=["file"],
        environment={"GREENAGENT_MAIN_NID": "77", "GREENAGENT_MAIN_ROLES": "variable", "GREENAGENT_MAIN_MAX_JOBS": "3"},
    )
    poll = controller.wait_for_poll()
    assert (poll.gid, poll.nid, poll.roles) == (1, 77, ["flag", "last"])
    assert poll.headers["Greenagent-Free-Slots"] == "3"
    controller.push({**shell("who", "echo $AGENT_GID:$AGENT_NID; env | grep -c GREENAGENT_MAIN"), "nid": 77})
    result = controller.wait_for_result("who")
    assert (result["gid"], result["nid"]) == (1, 77)
    assert result["streams"][0] == "1:77\n0\n"

    # A reload keeps them above the file.
    agent.config.write_text(agent.config.read_text().replace("max_jobs = 100", "max_jobs = 50"))
    os.kill(agent.pid, signal.SIGHUP)
    wait_until(lambda: "reloaded" in agent.stderr, what="the reload")
    count = len(controller.polls)
    controller.push({**shell("again", "true"), "nid": 77})
    controller.wait_for_result("again")
    poll = controller.wait_for_poll(count + 1)
    assert (poll.nid, poll.roles) == (77, ["flag", "last"])
