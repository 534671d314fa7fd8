"""The packaged configuration and the service files, as far as they can be read without running them."""

import configparser
import re
import subprocess
from pathlib import Path

import pytest

from greenagent.settings import Loaded, SettingsError, load_settings
from greenagent.settings.schema import http_url
from tests.conftest import needs

ETC = Path(__file__).parent.parent.parent / "etc"
INIT_SCRIPT = ETC / "init.d" / "greenagent"
UNIT = ETC / "systemd" / "greenagent.service"


def packaged(folder: Path) -> Loaded:
    """The packaged configuration with its url, as somebody has adapted it."""
    path = folder / "greenagent.toml"
    path.write_text((ETC / "greenagent.toml").read_text().replace("#url", "url"))
    return load_settings(path, {}, {})


def test_the_packaged_configuration_names_no_controller_that_any_user_of_this_machine_could_be() -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(ETC / "greenagent.toml", {}, {})
    (problem,) = error.value.problems
    assert "[controllers.main] url: is missing" in problem


def test_the_packaged_configuration_names_absolute_paths_and_bounds_what_it_writes(tmp_path: Path) -> None:
    loaded = packaged(tmp_path)
    assert loaded.warnings == ()
    settings = loaded.settings
    main = settings.main
    for path in (main.message_id_file, main.history_file, main.ledger_file, main.scripts_dir):
        assert path.parts[:4] == ("/", "var", "lib", "greenagent")
    assert settings.database_logger is not None
    assert settings.database_logger.log_dir == Path("/var/log/greenagent")
    assert settings.database_logger.max_dbs * settings.database_logger.max_db_size <= 2 << 30
    assert settings.database_logger.min_free > 0
    assert settings.console_loggers == (), "its file grows with what jobs print"
    assert len(settings.loggers) == 2
    assert [http_url(controller.url) for controller in settings.controllers.values()] == [""]


def test_the_examples_in_the_packaged_configuration_are_right(tmp_path: Path) -> None:
    lines = []
    for line in (ETC / "greenagent.toml").read_text().splitlines():
        match = re.match(r"( *)#( *(?:\[.*\]|\w+ = .*))$", line)
        lines.append(match.group(1) + match.group(2) if match else line)
    text = "\n".join(lines)
    for name in ("client_certificate", "client_certificate_key", "certificate_authority"):
        text = re.sub(rf'{name} = ".*"', f'{name} = ""', text)
    (tmp_path / "all.toml").write_text(text)
    loaded = load_settings(tmp_path / "all.toml", {}, {})
    assert loaded.warnings == ()
    assert set(loaded.settings.extensions) == {"script"}
    assert [task.id for task in loaded.settings.startup] == ["prepare"]


def test_the_output_of_the_init_script_is_rotated_by_emptying_it() -> None:
    rotation = (ETC / "logrotate.d" / "greenagent").read_text()
    script = INIT_SCRIPT.read_text()
    (output,) = re.findall(r"^OUTPUT=(.*)$", script, re.MULTILINE)
    assert f"\n{output} {{\n" in rotation
    assert "    copytruncate\n" in rotation
    assert 'exec 3>>"$0"' in script, "what is appended goes on at the beginning of a file that was emptied"


def test_the_init_script_is_posix_shell_with_an_lsb_header() -> None:
    text = INIT_SCRIPT.read_text()
    assert text.startswith("#!/bin/sh\n### BEGIN INIT INFO\n")
    header = text.split("### BEGIN INIT INFO\n")[1].split("### END INIT INFO\n")[0]
    keys = {line.split(":")[0].lstrip("# ") for line in header.splitlines()}
    assert {"Provides", "Required-Start", "Required-Stop", "Default-Start", "Default-Stop", "Short-Description"} <= keys
    assert INIT_SCRIPT.stat().st_mode & 0o111
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert not re.search(r"\[\[\s|\blocal \w|\bfunction \w|start-stop-daemon|init-functions", code)
    subprocess.run([needs("sh"), "-n", str(INIT_SCRIPT)], check=True)


def test_every_line_of_the_defaults_file_is_known_to_the_init_script() -> None:
    script = INIT_SCRIPT.read_text()
    text = (ETC / "default" / "greenagent").read_text()
    names = re.findall(r"^#?([A-Z_]+)=(.*)$", text, re.MULTILINE)
    assert len(names) >= 9
    for name, value in names:
        if not name.startswith("GREENAGENT_"):
            assert f"\n{name}={value}\n" in script, f"the default of {name} differs"
    assert not re.search(r"^[^#\n]", text, re.MULTILINE)


def test_the_unit_waits_longer_than_the_agent_needs_to_stop(tmp_path: Path) -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    assert service["ExecReload"].endswith("-HUP $MAINPID")
    main = packaged(tmp_path).settings.main
    longest = main.kill_grace + main.pipe_drain + main.drain_timeout
    assert float(service["TimeoutStopSec"]) > longest
    stop_timeout = re.search(r"^STOP_TIMEOUT=(\d+)$", INIT_SCRIPT.read_text(), re.MULTILINE)
    assert stop_timeout is not None
    assert float(stop_timeout.group(1)) > longest


def test_systemd_accepts_the_unit() -> None:
    run = subprocess.run(
        [needs("systemd-analyze"), "verify", str(UNIT)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "greenagent.service" not in run.stderr, run.stderr


def test_the_page_about_the_service_has_the_defaults_and_exit_codes_of_the_script() -> None:
    page = (ETC.parent / "docs" / "service.md").read_text()
    script = INIT_SCRIPT.read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (?:`(.*?)`)? ?\|", page, re.MULTILINE))
    defaults = dict(re.findall(r"^([A-Z_]+)=(.*)$", script.split("\nsay() ")[0], re.MULTILINE))
    for name in ("DEFAULTS", "NAME", "PATH"):
        defaults.pop(name)
    assert rows == defaults
    codes = set(re.findall(r"\b(?:exit|return) ([0-9])\b", script))
    assert codes <= set(re.findall(r"^\| ([0-9]) \|", page, re.MULTILINE))
