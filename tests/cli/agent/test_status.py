"""``greenagent --status``: how the running agent does, without a port."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from greenagent.agent import status_file
from greenagent.cli.agent.running import EXIT_NOBODY, show_status
from greenagent.settings.models import MainSettings
from tests.support.commands import shell
from tests.support.inside import InsideAgent
from tests.support.recording_controller import RecordingController, status
from tests.support.recording_sink import LOGS, RecordingSink
from tests.support.waiting import wait_until


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked after more often than every 10 s."""
    monkeypatch.setattr(status_file, "INTERVAL", 0.02)


def said(main: MainSettings, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = show_status(main)
    return code, capsys.readouterr().out


def settled(main: MainSettings, capsys: pytest.CaptureFixture[str], ended: str) -> list[str]:
    """What is told once the agent polls again and has delivered all results: nothing of it changes by itself.

    ``ended``: how many jobs have, and how.
    """

    def told() -> list[str]:
        code, text = said(main, capsys)
        polls = re.search(r"a poll stands open, last answer \d+ s ago, waiting for it: 0 results", text)
        return text.splitlines() if code == 0 and ended in text and polls else []

    return wait_until(told, what="the next poll, and the arrival of the results")


def test_a_running_agent_tells_how_it_does(tmp_path: Path, often: None, capsys: pytest.CaptureFixture[str]) -> None:
    with RecordingController(park=50) as controller, InsideAgent(tmp_path, {"main": controller.url}) as inside:
        main = inside.agent.settings.main
        controller.push(shell("j", "exit 3"))
        first, second, third = settled(main, capsys, "1 ERROR")
        assert re.fullmatch(
            rf"greenagent \S+ 1:10, process {os.getpid()}, up \d+\.\ds, healthy \(as of \d+ s ago( at most)?\)", first
        )
        assert second == "jobs: 0 running, 0 waiting, ended since its start: 1 ERROR"
        contact = r"controller main: a poll stands open, last answer \d+ s ago, waiting for it: 0 results, \d+ lines"
        assert re.fullmatch(contact, third)
        file = status_file.status_file(main.ledger_file)
        written = file.stat().st_ino
        file.write_text(file.read_text().replace(f'"pid": {os.getpid()}', '"pid": 1'))
        assert said(main, capsys) == (0, f"process {os.getpid()} has its files; it starts or ends, or tells nothing\n")
        assert file.stat().st_ino == written, "nothing changes, and so nothing is written"
    assert not file.exists()
    assert said(main, capsys) == (EXIT_NOBODY, "no agent has the files of this configuration\n")


def test_a_sink_is_told_of_with_what_waits_for_it(
    tmp_path: Path, often: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with RecordingSink() as sink:
        sink.misbehave(LOGS, status(503))
        more = f'[sinks.otel]\ntype = "otlp"\nsends = ["logs"]\nflush_int = 0.1\nurl = "{sink.url}"\n'
        with InsideAgent(tmp_path, {}, more=more) as inside:
            main = inside.agent.settings.main
            inside.accept(shell("j", "echo a; echo b"))
            trouble = "sink otel: waiting for it: 2 lines, 0 statistics, trouble: it answers with status 503"
            wait_until(lambda: trouble in said(main, capsys)[1].splitlines(), what="the sink that is away")
            sink.behave()
            fine = "sink otel: waiting for it: 0 lines, 0 statistics"
            wait_until(lambda: fine in said(main, capsys)[1].splitlines(), what="the sink that is back")


def test_a_disk_that_takes_nothing_is_said_once(
    tmp_path: Path, often: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with RecordingController(park=50) as controller, InsideAgent(tmp_path, {"main": controller.url}) as inside:
        main = inside.agent.settings.main
        file = status_file.status_file(main.ledger_file)
        controller.push(shell("before", "true"))
        settled(main, capsys, "1 SUCCESS")  # until the next job the agent does not write the file again
        file.unlink()
        file.mkdir()
        controller.push(shell("j", "true"))
        text = f"{file} cannot be written, it is for --status alone: Is a directory"
        wait_until(lambda: text in inside.agent_log.lines, what="the warning")
        file.rmdir()
        wait_until(lambda: f"{file} can be written again" in inside.agent_log.lines)
        assert inside.agent_log.lines.count(text) == 1
