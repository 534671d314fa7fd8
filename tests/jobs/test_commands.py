"""What an extension makes of a command (protocol 10.1, 10.2)."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from greenagent.cli.agent.check import no_file
from greenagent.jobs.commands import Scripts, child_environment, resolve_extension
from greenagent.process.program import Program, SpawnError, SpawnRequest
from greenagent.runtime.files import who_can_write
from greenagent.settings.destinations import ControllerSettings, SecuritySettings
from greenagent.settings.load import load_settings
from greenagent.settings.models import ExtensionSettings
from greenagent.values.command import Command, parse_command
from greenagent.values.errors import CommandError
from tests.support.processes import ROOT

EXTENSION = ExtensionSettings(name="x", binary="sh", cwd="scripts", args=("{domain}/{name}.sh", "{}", "{number}"))


def command(**arguments: object) -> Command:
    return parse_command(
        {"id": "a", "cmd": "x", "args": {"domain": "d", "name": "n", "number": 1_000_000, **arguments}}
    )


def test_arguments_are_filled_in_and_the_callers_follow() -> None:
    """Defects 24 of the original: the caller's were dropped, and large numbers printed as 1e+06."""
    execution = resolve_extension(command(args=["more", 2]), EXTENSION)
    assert execution.arguments == ("d/n.sh", "{}", "1000000", "more", "2")
    assert execution.directory == "scripts"


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(CommandError, match="'number'"):
        resolve_extension(command(number=None), EXTENSION)


@pytest.mark.parametrize(
    "value",
    ["../x", "..", "a/../../b", "--file=../../etc/passwd", "x=../../etc", "a,../../b", "x ../../etc"],
)
@pytest.mark.parametrize("key", ["name", "domain", "args"])
def test_a_value_that_climbs_out_is_refused_unless_permitted(key: str, value: str) -> None:
    climbing = command(**{key: [value] if key == "args" else value})
    with pytest.raises(CommandError, match="allow_parent"):
        resolve_extension(climbing, EXTENSION)
    permitted = replace(EXTENSION, allow_parent=True)
    assert any(value in argument for argument in resolve_extension(climbing, permitted).arguments)


@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        ("{domain}/{name}.sh", {"domain": "/tmp/x", "name": "evil"}),
        ("{domain}/{name}.sh", {"domain": "", "name": "evil"}),
        ("--file={path}", {"path": "/etc/passwd"}),
    ],
)
def test_an_absolute_path_that_a_value_makes_is_refused_unless_permitted(template: str, arguments: dict) -> None:
    extension = replace(EXTENSION, args=(template,))
    with pytest.raises(CommandError, match=r"with an absolute path \(allow_parent"):
        resolve_extension(command(**arguments), extension)
    filled = template.format(**arguments)
    assert resolve_extension(command(**arguments), replace(extension, allow_parent=True)).arguments == (filled,)


@pytest.mark.parametrize("template", ["/opt/{name}.sh", "--url={name}", "{name}"])
def test_absolute_paths_of_the_configuration_and_urls_are_fine(template: str) -> None:
    execution = resolve_extension(command(name="http://x/y"), replace(EXTENSION, args=(template,)))
    assert execution.arguments == (template.format(name="http://x/y"),)


@pytest.mark.parametrize(
    "variable",
    [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "BASH_ENV",
        "ENV",
        "PATH",
        "PYTHONPATH",
        "PERL5OPT",
        "RUBYOPT",
        "NODE_OPTIONS",
        "GIT_SSH_COMMAND",
        "IFS",
        "SHELLOPTS",
        "BASH_FUNC_ls%%",
        "GCONV_PATH",
        "JAVA_TOOL_OPTIONS",
        "TAR_OPTIONS",
        "NODE_PATH",
        "PS4",
        "GLIBC_TUNABLES",
        "HOME",
        "MAKEFILES",
        "MAKEFLAGS",
        "GNUMAKEFLAGS",
        "SHELL",
        "CONFIG_SHELL",
        "ZDOTDIR",
        "XDG_CONFIG_HOME",
        "XDG_DATA_DIRS",
        "PHPRC",
        "PHP_INI_SCAN_DIR",
        "GEM_HOME",
        "GEM_PATH",
        "BUNDLE_GEMFILE",
        "MAVEN_OPTS",
        "FZF_DEFAULT_OPTS",
        "PROVE_OPT",
        "EDITOR",
        "VISUAL",
        "PAGER",
        "MANPAGER",
        "GIT_PAGER",
        "KUBECONFIG",
        "AWS_CONFIG_FILE",
        "RSYNC_RSH",
        "BORG_RSH",
        "CVS_RSH",
        "SVN_SSH",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "GIT_DIR",
        "CDPATH",
        "FPATH",
        "TERMINFO",
        "TERMINFO_DIRS",
        "LOCPATH",
        "NLSPATH",
        "HOSTALIASES",
        "RES_OPTIONS",
        "MALLOC_CHECK_",
        "MALLOC_TRACE",
        "TMPDIR",
        "PROMPT_COMMAND",
        "RESTIC_PASSWORD_COMMAND",
        "SSH_ASKPASS",
        "MY_PATH",
        "JAVA_HOME",
        "GNUPGHOME",
        "OPENSSL_CONF",
        "KRB5_CONFIG",
        "LESSOPEN",
        "CLASSPATH",
        "https_proxy",
        "GTK_MODULES",
    ],
)
def test_a_callers_variable_that_decides_which_code_runs_is_refused_unless_permitted(variable: str) -> None:
    given = command(env={variable: "x"})
    with pytest.raises(CommandError, match=f"args.env: {re.escape(variable)} may decide what extension 'x' runs"):
        resolve_extension(given, EXTENSION)
    assert resolve_extension(given, replace(EXTENSION, allow_parent=True)).environment == {variable: "x"}
    harmless = (
        "LANG",
        "LC_ALL",
        "TZ",
        "TERM",
        "COLUMNS",
        "ENVIRONMENT",
        "PATHS",
        "SRC",
        "SHELLS",
        "MAKER",
        "LESSON",
        "CONFIG",
        "ADOPT",
        "home",
    )
    for name in harmless:
        assert name in resolve_extension(command(env={name: "x"}), EXTENSION).environment


@pytest.mark.parametrize("value", ["a/../b", "...", "a..b", "v1..v2", "x..", "--range=1..5"])
def test_dots_that_lead_nowhere_are_text(value: str) -> None:
    assert resolve_extension(command(name=value), EXTENSION).arguments[0] == f"d/{value}.sh"


def test_commands_are_the_same_as_json_not_as_python() -> None:
    assert command(number=1).is_same_as(command(number=1))
    assert not command(number=1).is_same_as(command(number=True))


def test_a_user_without_an_entry_and_without_home_runs_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 123456)
    assert child_environment({}, "tag", 1, 10, None)["HOME"] == "/"


def test_jobs_get_their_environment_when_the_working_folder_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    controller = ControllerSettings("main", "https://c", SecuritySettings(certificate_authority=Path("ca.pem")))
    environment = child_environment({}, "tag", 1, 10, controller)
    assert environment["AGENT_HOME"] == str(gone)
    assert environment["AGENT_CONTROLLER_CA"] == f"{gone}/ca.pem"
    assert who_can_write(Path("scripts")) == ""
    assert "there is no folder" in no_file(Path("mid"))
    assert Program(SpawnRequest("/bin/true")).locate("/bin") == "/bin/true"
    assert Program(SpawnRequest("true")).locate("/bin") == "/bin/true"
    with pytest.raises(SpawnError, match="the folder that the agent was started in is gone"):
        Program(SpawnRequest("./true")).locate("/bin")


def test_the_page_about_jobs_names_every_variable_that_a_job_gets() -> None:
    page = (ROOT / "docs" / "jobs.md").read_text()
    controller = ControllerSettings("main", "https://c")
    variables = [*child_environment({}, "tag", 1, 10, controller), "STATSD_HOST", "STATSD_PORT", "leave_children"]
    assert [name for name in variables if name not in page] == []


def test_a_script_that_one_controller_handed_out_is_none_of_anothers(tmp_path: Path) -> None:
    """Two texts can be made that have one MD5: who gave the first would choose what runs for the second."""
    text = b"def action():\n    pass\n"
    digest = hashlib.md5(text).hexdigest()
    asked: list[tuple[str, str]] = []

    def fetch(controller: str, wanted: str) -> bytes:
        asked.append((controller, wanted))
        return text

    configuration = tmp_path / "agent.toml"
    configuration.write_text("[main]\ngid = 1\nnid = 10\n[controllers.main]\nurl = 'http://127.0.0.1'\n")
    settings = load_settings(configuration, {}).settings
    scripts = Scripts(lambda: settings, fetch)
    wanted = parse_command({"id": "a", "cmd": "jumpscript_content", "data": json.dumps({"hash": digest})})
    for controller in ("first", "second", "first"):
        assert json.loads(scripts.jumpscript_content(wanted, controller).data)["content"] == text.decode()
    assert asked == [("first", digest), ("second", digest)]
