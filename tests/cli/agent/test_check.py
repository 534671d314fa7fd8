"""``greenagent --check``: what it says of the machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from greenagent.cli.agent.check import no_file, unreadable
from greenagent.values.errors import GreenagentError
from tests.settings.support import MINIMAL
from tests.support.inside import InsideAgent
from tests.support.programs import ROOT, SEED, chdir, check, command, environment


def test_commands_and_programs_that_are_not_there_are_warnings(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    text = MINIMAL + (
        "[extensions.good]\nbinary = 'sh'\n[extensions.bad]\nbinary = 'no-such-program'\n"
        "[extensions.lost]\nbinary = 'sh'\ncwd = './nowhere'\n[extension.plain]\nbinary = './plain'\ncwd = '.'\n"
        "[extensions.later]\nbinary = './in-the-folder-of-the-job'\n"
        "[startup.one]\nname = 'good'\n[startup.two]\nname = 'kil'\n[startup.three]\nname = 'execute'\n"
        "args = {name = 'true'}\n[startup.four]\nname = 'bash'\ndata = 'true'\n"
    )
    code, lines = check(tmp_path, text)
    assert code == 0
    assert len(lines) == 4, lines
    begin = "greenagent: warning: "
    assert lines[0].startswith(f"{begin}10: [extensions.bad] binary: cannot start 'no-such-program': no such file")
    assert lines[1].startswith(f"{begin}12: [extensions.lost] binary: cannot start 'sh': ")
    assert "nowhere" in lines[1]
    assert lines[2].startswith(f"{begin}15: [extension.plain] binary: cannot start './plain': ")
    assert lines[3] == (
        f"{begin}22: [startup.two] name: there is no command 'kil' here, "
        "its job ends with UNKNOWN_CMD, did you mean 'kill'?"
    )


def test_what_a_sink_lacks_on_this_machine_is_told_in_one_go(tmp_path: Path) -> None:
    text = MINIMAL + (
        "[sinks.otel]\ntype = 'otlp'\nurl = 'https://127.0.0.1:4318'\ntoken_file = 'gone'\n"
        "[sinks.otel.security]\ncertificate_authority = 'lost'\n"
    )
    code, lines = check(tmp_path, text)
    assert code == 1
    assert lines == [
        "greenagent: 10: [sinks.otel] token_file: cannot read the token file gone: No such file or directory",
        "greenagent: 12: [sinks.otel.security] certificate_authority: 'lost' does not exist",
    ]
    (tmp_path / "gone").write_text("two words")
    assert check(tmp_path, text)[1][0].endswith("the token file gone must hold one word of ASCII characters")
    (tmp_path / "gone").write_text("word")
    (tmp_path / "gone").chmod(0o600)
    assert check(tmp_path, text.replace("certificate_authority", "#")) == (0, [])


def test_a_log_folder_that_cannot_be_made_is_a_problem_and_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    logger = MINIMAL + "[logging.db]\ntype = 'DB'\nlog_dir = '{}'\n"
    assert check(tmp_path, logger.format("./new/logs")) == (0, [])
    code, lines = check(tmp_path, logger.format("./file/logs"))
    begin = "greenagent: 9: [logging.db] log_dir: 'file/logs' cannot be created in"
    assert code == 1
    assert lines == [f"{begin} '{tmp_path}/file': Not a directory"]
    code, lines = check(tmp_path, logger.format("/proc/sys/logs"))
    assert code == 1
    assert "log_dir: '/proc/sys/logs' cannot be created in '/proc/sys'" in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.toml", "file"]


def test_files_that_cannot_be_written_are_problems(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    files = "ledger_file = './folder'\nmessage_id_file = './gone/mid'\nhistory_file = '/proc/sys/history'"
    text = MINIMAL.replace("[main]", f"[main]\n{files}")
    code, lines = check(tmp_path, text)
    assert code == 1
    history, *others = sorted(line.split("] ", 1)[1] for line in lines)
    assert history.startswith("history_file: '/proc/sys/history' cannot be created in '/proc/sys': ")
    assert others == [
        "ledger_file: 'folder' is a folder: name a file",
        "message_id_file: 'gone/mid' cannot be written: "
        f"there is no folder '{tmp_path}/gone': make it, or name another",
    ]
    assert not (tmp_path / "gone").exists()


def test_files_in_a_folder_that_may_not_be_entered_are_problems(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("SKIPPED FOR LACK OF ROOT: run the tests as root to look as another user")
    tmp_path.chmod(0o700)
    (tmp_path / "scripts").mkdir()
    os.seteuid(65534)
    try:
        text = no_file(tmp_path / "mid")
        scripts = unreadable(tmp_path / "scripts")
    finally:
        os.seteuid(0)
    assert scripts == f"'{tmp_path}/scripts' cannot be read: Permission denied"
    assert text == f"'{tmp_path}/mid' cannot be written: Permission denied"


def test_a_scripts_folder_that_is_none_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "scripts").write_text("")
    code, (line,) = check(tmp_path, MINIMAL)
    assert code == 0
    assert line.endswith("[main] scripts_dir: 'scripts' cannot be read: Not a directory, so no jumpscript runs")


def test_faults_of_certificates_hide_nothing_else(tmp_path: Path) -> None:
    text = MINIMAL.replace("[main]", "[main]\nhistory_file = '/nowhere/h'")
    text = text.replace("http:", "https:")
    code, lines = check(tmp_path, text + "[controllers.main.security]\ncertificate_authority = '/nowhere.pem'\n")
    assert code == 1
    assert [line.split("] ", 1)[1].split(":")[0] for line in lines] == ["history_file", "certificate_authority"]


def test_programs_and_scripts_that_others_can_write_are_warnings(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o777)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts").chmod(0o777)
    code, lines = check(tmp_path, MINIMAL + f"[extensions.mine]\nbinary = '{program}'\n")
    assert code == 0
    said = "everybody here can write it (chmod o-w {}), and so decides what the agent runs"
    assert lines == [
        f"greenagent: warning: 2: [main] scripts_dir: 'scripts': {said.format('scripts')}",
        f"greenagent: warning: 8: [extensions.mine] binary: '{program}': {said.format(program)}",
    ]


def test_state_files_that_are_links_are_problems(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("[]")
    (tmp_path / "link").symlink_to("target")
    for name in ("message_id_file", "history_file", "ledger_file"):
        code, lines = check(tmp_path, MINIMAL.replace("[main]", f"[main]\n{name} = './link'"))
        assert (code, [line.split("] ", 1)[1] for line in lines]) == (
            1,
            [f"{name}: 'link' is a symbolic link: put a file of the agent's own there, or name another"],
        )


def test_files_whose_names_are_none_are_problems(tmp_path: Path) -> None:
    """They ended ``--check`` in a traceback, and SIGHUP in an internal error."""
    code, lines = check(tmp_path, MINIMAL.replace("[main]", "[main]\nhistory_file = '.'"))
    assert (code, lines) == (
        1,
        [
            "greenagent: 3: [main] history_file: '.' is a folder: name a file",
            "greenagent: mend this first, then check again: what it needs of this machine was not looked at",
        ],
    )
    name = "x" * 300
    code, lines = check(tmp_path, MINIMAL.replace("[main]", f"[main]\nmessage_id_file = '{name}'"))
    assert code == 1
    assert [line.split("] ", 1)[1] for line in lines] == [
        f"message_id_file: '{name}' cannot be written: File name too long"
    ]


def test_metrics_without_their_package_are_a_problem(tmp_path: Path) -> None:
    text = MINIMAL + "[metrics]\nlisten = '127.0.0.1:9464'\n"
    assert check(tmp_path, text) == (0, [])
    # As where it is not installed: None stands for a module that cannot be imported.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['prometheus_client'] = None\n")
    code, lines = check(tmp_path, text, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert code == 1
    assert lines == [
        "greenagent: 8: [metrics] listen: needs the package prometheus_client: "
        "pip install prometheus_client, or leave it empty"
    ]


def test_without_a_second_parser_of_toml_the_check_says_so(tmp_path: Path) -> None:
    """As on Python 3.10 without the package tomli: None stands for a module that cannot be imported."""
    absent = "import sys\nsys.modules['tomllib'] = sys.modules['tomli'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(absent)
    code, (line,) = check(tmp_path, MINIMAL, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert code == 0
    assert line == (
        "greenagent: warning:  was read by the toml library alone, which misreads some texts: pip install tomli"
    )


def test_the_seed_configuration_passes_the_check(tmp_path: Path) -> None:
    code, lines = check(tmp_path, SEED.read_text())
    assert code == 0
    assert all(line.startswith("greenagent: warning: ") for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["agent.toml"]


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_a_problem_for_the_check_and_for_the_start(tmp_path: Path, kind: str) -> None:
    """A pipe as history or message id file hung the start for ever, and the check called all of it fine."""
    make = os.mkfifo if kind == "pipe" else os.mkdir
    text = MINIMAL + "[logging.db]\ntype = 'DB'\nlog_dir = './logs'\n"
    text = text.replace("[main]", "[main]\nmessage_id_file = './mid'\nhistory_file = './history'")
    own = "is no file of its own: remove it, or name another place"
    beside = "'history.db' cannot be used: history.db-wal beside it is a"
    places = {
        "history": ("history_file", f"'history' is a {kind}: name a file"),
        "mid": ("message_id_file", f"'mid' is a {kind}: name a file"),
        "history.db": ("ledger_file", f"'history.db' cannot be used: it is a {kind}, not a file"),
        "history.db-wal": ("ledger_file", f"{beside} {kind}, not a file"),
        "history.db.lock": ("ledger_file", f"the lock 'history.db.lock' {own}"),
        "mid.lock": ("message_id_file", f"the lock 'mid.lock' {own}"),
        "logs/.lock": ("log_dir", f"the lock 'logs/.lock' {own}"),
    }
    for name, (setting, words) in places.items():
        folder = tmp_path / name.replace("/", "-")
        (folder / "logs").mkdir(parents=True)
        make(folder / name)
        code, lines = check(folder, text)
        assert (code, [line.split("] ", 1)[1] for line in lines]) == (1, [f"{setting}: {words}"])
        with chdir(folder), pytest.raises(GreenagentError) as refusal, InsideAgent(folder, {}, text):
            pass
        said = str(refusal.value)
        assert name in said
        assert setting in said or "lock" in name
        assert f"is a {kind}, not a file" in said or own in said
    assert f"error: cannot start: {said}" in start_of(folder)


def start_of(folder: Path) -> str:
    """What a start says that is refused."""
    done = subprocess.run(
        command("agent", "-c", "agent.toml"), capture_output=True, text=True, cwd=folder, env=environment(), timeout=60
    )
    assert done.returncode == 1
    return done.stderr


def test_a_lock_that_is_a_pipe_is_told_by_show_pid(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(MINIMAL.replace("[main]", "[main]\nmessage_id_file = './mid'"))
    os.mkfifo(tmp_path / "mid.lock")
    done = subprocess.run(
        command("agent", "-c", "agent.toml", "--show-pid"),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "greenagent: mid.lock: it is a pipe, not a file\n")
