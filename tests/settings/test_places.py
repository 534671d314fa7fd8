"""Relative paths of a configuration are against its folder; state that version 0.1 left elsewhere is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenagent.settings import SettingsError, load_settings
from greenagent.settings.models import Settings
from tests.settings.support import MINIMAL

TEXT = (
    MINIMAL.replace("[main]", "[main]\nmessage_id_file = './mid'\nscripts_dir = './own'")
    + "[controllers.main.security]\nclient_certificate_key = 'agent.key'\n"
    + "[logging.db]\ntype = 'DB'\n[extensions.mine]\nbinary = './mine'\ncwd = './here'\n"
)


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a configuration; the working directory is its neighbour ``cwd``."""
    etc, working = tmp_path / "etc", tmp_path / "cwd"
    etc.mkdir()
    working.mkdir()
    (etc / "agent.toml").write_text(TEXT)
    monkeypatch.chdir(working)
    return etc


def paths(settings: Settings) -> list[Path]:
    logger = settings.database_logger
    assert logger is not None
    main = settings.main
    return [main.message_id_file, main.history_file, main.ledger_file, main.scripts_dir, logger.log_dir]


def test_relative_paths_are_against_the_folder_of_the_file(etc: Path) -> None:
    loaded = load_settings(etc / "agent.toml", files=False)
    assert paths(loaded.settings) == [etc / name for name in ("mid", ".history", ".history.db", "own", "logs")]
    assert loaded.settings.controllers["main"].security.client_certificate_key == etc / "agent.key"
    mine = loaded.settings.extensions["mine"]
    assert (mine.binary, mine.cwd) == ("./mine", "./here"), "what jobs use is as the jobs see it"
    assert load_settings("../etc/agent.toml", files=False).settings.main.message_id_file == Path("../etc/mid")


def test_variables_are_against_the_working_directory(etc: Path) -> None:
    loaded = load_settings(etc / "agent.toml", {"GREENAGENT_MAIN_MESSAGE_ID_FILE": "own-mid"}, files=False)
    assert paths(loaded.settings)[:2] == [Path("own-mid"), etc / ".history"]


@pytest.mark.parametrize("left", ["mid", ".history", ".history.db", "logs/current.db"])
def test_state_that_is_only_in_the_working_directory_is_used_there_and_said(etc: Path, left: str) -> None:
    state = Path.cwd() / left
    state.parent.mkdir(exist_ok=True)
    state.write_text("")
    loaded = load_settings(etc / "agent.toml", files=False)
    assert [path.absolute() for path in paths(loaded.settings)] == [
        Path.cwd() / name for name in ("mid", ".history", ".history.db", "own", "logs")
    ]
    (said,) = (text for text in loaded.warnings if "version 0.1" in text)
    assert f"in the folder that it is started in, {Path.cwd()} ({left.partition('/')[0]}), as version 0.1" in said
    assert f"move its state to {etc}, or write full paths" in said


def test_state_in_both_places_is_refused_naming_both(etc: Path) -> None:
    for folder in (etc, Path.cwd()):
        (folder / "mid").write_text("")
    with pytest.raises(SettingsError) as error:
        load_settings(etc / "agent.toml", files=False)
    assert f"lies in {etc} (mid) and in the folder that it is started in, {Path.cwd()} (mid): " in str(error.value)
    reader = load_settings(etc / "agent.toml", files=False, reads_only=True)
    assert reader.settings.main.message_id_file == etc / "mid", "whoever only reads may stand in any folder"


def test_folders_and_files_that_are_no_state_decide_nothing(etc: Path) -> None:
    for name in ("logs", "own"):
        Path(name).mkdir()
    Path("agent.key").write_text("")
    loaded = load_settings(etc / "agent.toml", files=False)
    assert loaded.settings.main.message_id_file == etc / "mid"
    assert not [text for text in loaded.warnings if "version 0.1" in text]
