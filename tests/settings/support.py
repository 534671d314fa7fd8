"""Small configurations for the tests of this room."""

from collections.abc import Mapping
from pathlib import Path

from greenagent.settings import Loaded, SettingsError, load_settings

MINIMAL = """
[main]
gid = 1
nid = 2
[controllers.main]
url = "http://localhost:8966"
"""


def load(folder: Path, text: str, environment: Mapping[str, str] | None = None, **flags: object) -> Loaded:
    """Loads a configuration given as text."""
    path = folder / "agent.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environment or {}, flags)


def problems(folder: Path, text: str, environment: Mapping[str, str] | None = None, **flags: object) -> list[str]:
    """The problems of a configuration given as text, without the folder's name; [] when it loads."""
    try:
        load(folder, text, environment, **flags)
    except SettingsError as error:
        return [line.replace(f"{folder}/", "") for line in error.problems]
    return []


def warnings(folder: Path, text: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """The warnings of a configuration that loads."""
    return [line.replace(f"{folder}/", "") for line in load(folder, text, environment).warnings]
