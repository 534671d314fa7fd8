"""Which configuration the programs of a node take where ``-c`` names none."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from greenagent.cli import common
from greenagent.cli.common import configuration_file
from tests.support.programs import command, environment

CONFIGURATION = "[main]\ngid = 1\nnid = 10\n[controllers.main]\nurl = 'http://127.0.0.1:1'\n"


def run(module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    asked = command(module, *arguments)
    return subprocess.run(asked, capture_output=True, text=True, timeout=60, env=environment(**variables))


def test_the_option_goes_before_the_variable_and_that_before_the_usual_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = tmp_path / "greenagent.toml"
    monkeypatch.setattr(common, "DEFAULT_CONFIG", str(usual))
    monkeypatch.delenv("GREENAGENT_CONFIG", raising=False)
    assert configuration_file(None) is None
    usual.touch()
    assert configuration_file(None) == str(usual)
    monkeypatch.setenv("GREENAGENT_CONFIG", "other.toml")
    assert configuration_file(None) == "other.toml"
    assert configuration_file("third.toml") == "third.toml"


def test_what_may_not_be_read_is_named_in_full_with_who_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "logs")

    monkeypatch.chdir(tmp_path)
    assert common.run_program("greenagent-logs", refused) == 1
    said = f"{tmp_path}/logs: Permission denied: run it as root or as the user of the file (the agent's)"
    assert capsys.readouterr().err == f"greenagent-logs: {said}\n"


def test_the_variable_names_the_file_for_all_programs_of_a_node_and_is_no_setting(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(CONFIGURATION)
    checked = run("agent", "--check", GREENAGENT_CONFIG=str(path))
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, f"{path}: the configuration is fine\n", "")
    for arguments in ((), ("outbox",), ("verify",)):
        shown = run("logs", *arguments, GREENAGENT_CONFIG=str(tmp_path / "missing.toml"))
        assert shown.returncode == 1, arguments
        assert f"{tmp_path}/missing.toml" in shown.stderr, arguments


def test_without_any_it_is_said_where_one_is_looked_for(tmp_path: Path) -> None:
    where = "-c FILE, or in GREENAGENT_CONFIG; there is no /etc/greenagent.toml"

    def said(module: str, *arguments: str) -> str:
        """On this machine there may be one in the usual place."""
        program = (
            f"from greenagent.cli import common; common.DEFAULT_CONFIG = {str(tmp_path / 'missing')!r}\n"
            f"from greenagent.cli.{module}.__main__ import main; main({list(arguments)!r})"
        )
        asked = [sys.executable, "-c", program]
        return subprocess.run(asked, capture_output=True, text=True, timeout=60, env=environment()).stderr

    assert said("agent") == f"greenagent: no configuration: name one with {where}\n"
    assert where in said("logs")
    assert where in said("logs", "outbox")
