"""What makes a configuration one that others can misuse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from greenagent.runtime.files import who_can_write
from greenagent.settings.destinations import SecuritySettings
from greenagent.settings.models import DatabaseLogger, ExtensionSettings, MainSettings
from greenagent.settings.schema import PATH, declared
from tests.settings.support import MINIMAL, problems, warnings

TEXTS_THAT_ARE_PATHS = ("script_python", "binary", "cwd")


@pytest.mark.parametrize("value", ["~/x", "~user/x", "$HOME/x", "/srv/${NAME}"])
def test_no_path_takes_what_only_a_shell_expands(tmp_path: Path, value: str) -> None:
    """It made a folder named "~", or was found out by the first job."""

    def section(model: type) -> str:
        names = [name for name, each in declared(model).items() if each.kind is PATH or name in TEXTS_THAT_ARE_PATHS]
        return "".join(f"{name} = '{value}{number}'\n" for number, name in enumerate(names))

    text = f"{MINIMAL.replace('[main]', '[main]' + chr(10) + section(MainSettings))}"
    text += f"[controllers.main.security]\n{section(SecuritySettings)}"
    text += f"[extensions.x]\n{section(ExtensionSettings)}"
    text += f"[logging.db]\ntype = 'DB'\n{section(DatabaseLogger)}"
    found = problems(tmp_path, text)
    assert len([line for line in found if "is taken as it stands" in line]) == text.count(value) == 11
    assert len(found) == 11
    assert problems(tmp_path, text.replace(value, "./~x"))[0].count("is taken") == 0


def test_http_to_another_machine_is_a_warning_or_refused(tmp_path: Path) -> None:
    assert warnings(tmp_path, MINIMAL) == []
    far = MINIMAL.replace("localhost", "controller.example")
    (warning,) = warnings(tmp_path, far)
    assert warning.startswith("agent.toml:6: [controllers.main] url: is http to another machine: ")
    assert warnings(tmp_path, far.replace("http:", "https:")) == []
    strict = "[main]\nrequire_tls = true"
    assert problems(tmp_path, far.replace("[main]", strict)) == [
        "agent.toml:7: [controllers.main] url: is http to another machine, which main.require_tls refuses"
    ]
    assert problems(tmp_path, MINIMAL.replace("[main]", strict)) == []


def test_who_can_write_a_file_is_known(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(0o755)
    file = folder / "file"
    file.touch(0o640)
    link = tmp_path / "link"
    link.symlink_to(file)
    assert who_can_write(file) == who_can_write(link) == who_can_write(folder / "missing") == ""
    file.chmod(0o646)
    assert who_can_write(file) == f"everybody here can write it (chmod o-w {file})"
    assert who_can_write(link) == f"everybody here can write it (chmod o-w {link})"
    file.chmod(0o660)
    assert who_can_write(file) == "", "it is our own group"
    if os.geteuid() == 0:
        os.chown(file, 0, 12345)
        assert who_can_write(file) == f"group 12345 can write it (chmod g-w {file})"
    file.chmod(0o600)
    folder.chmod(0o777)
    assert who_can_write(file) == f"everybody here can replace it, since they can write {folder}"
    folder.chmod(0o1777)
    assert who_can_write(file) == "", "a sticky folder lets nobody replace what is another's"


@pytest.mark.parametrize("user", [0, 1234])
def test_root_refuses_a_configuration_and_keys_that_others_can_write(
    tmp_path: Path, user: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    authority = tmp_path / "authority.pem"
    authority.touch()
    authority.chmod(0o666)
    (tmp_path / "agent.toml").touch()
    (tmp_path / "agent.toml").chmod(0o666)
    text = MINIMAL + "[controllers.main.security]\ncertificate_authority = 'FILE'\n"
    configuration = "agent.toml: everybody here can write it (chmod o-w agent.toml)"
    if user:
        assert warnings(tmp_path, MINIMAL) == [configuration]
    else:
        found = problems(tmp_path, text.replace("FILE", str(authority)))
        assert found[0] == configuration
        assert any("certificate_authority: " in line and "everybody here can write it" in line for line in found)
