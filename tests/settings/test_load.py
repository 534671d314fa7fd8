"""Loading: the seed's file, every problem at once, and what overrides what."""

import shutil
from pathlib import Path

import pytest

from greenagent.settings import SettingsError, load_settings
from greenagent.settings.check import check_limits
from greenagent.settings.destinations import ControllerSettings
from greenagent.settings.models import (
    ConsoleLogger,
    ControllerLogger,
    DatabaseLogger,
    ExtensionSettings,
    StartupTask,
)
from greenagent.values.levels import parse_levels
from tests.settings.support import MINIMAL, load, problems, warnings

SEED = Path(__file__).parent.parent / "data" / "seed-config.toml"


def test_the_seed_configuration_loads_as_it_stands() -> None:
    here = SEED.parent
    loaded = load_settings(SEED, {}, {})
    settings = loaded.settings
    assert (settings.main.gid, settings.main.nid, settings.main.max_jobs) == (1, 10, 100)
    assert (settings.main.message_id_file, settings.main.history_file) == (here / ".mid", here / ".history")
    assert settings.main.ledger_file == here / ".history.db"
    assert settings.controllers == {"main": ControllerSettings("main", "http://localhost:8966")}
    assert settings.extensions == {
        "do_something": ExtensionSettings("do_something", "python2.7", "./python", ("{domain}/{name}.py",))
    }
    assert settings.channel.cmds == ("main",)
    assert settings.loggers == (
        DatabaseLogger("db", here / "logs", None, 104857600, 0, 0, 0),
        ControllerLogger("ac", 300, 1000, ("main",), parse_levels([2])),
        ConsoleLogger("console", parse_levels([2, 4, 7, 8, 9])),
    )
    assert (settings.stats.interval, settings.stats.controllers) == (60, ("main",))
    arguments = {"domaine": "test", "name": "startup", "loglevels_db": "*"}
    assert settings.startup == (StartupTask("intialize_something", "do_something", arguments),)
    (warning,) = loaded.warnings
    assert "domaine" in warning
    assert "did you mean 'domain'?" in warning


def test_every_problem_is_told_in_one_go_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
gid = 4
[mian]
x = 1
[main]
gid = 0
nid = "3"
max_job = 3
roles = [1, 2]
[controllers.main]
url = "ftp://user:secret@host"
[controllers.other]
url = "http://user:secret@/x"
[controllers]
third = 3
[extension.foo]
args = 3
[channel]
cmds = ["mian"]
[logging.a]
type = "bd"
[logging.b]
type = "DB"
[logging.c]
type = "db"
levels = "5-1"
flush_int = 3
[logging.d]
[stats]
controllers = ["nobody"]
interval = true
[startup.agent]
name = "foo"
args = 3
[startup.a]
name = "execute"
after = ["b"]
[startup.a.args]
loglevels = "a"
[startup.b]
name = "execute"
after = ["a", "x"]
"""
    assert problems(tmp_path, text) == [
        "agent.toml:1: [gid]: stands outside of any section, it belongs to [main]",
        "agent.toml:2: [mian]: is not a section, did you mean 'main'?",
        "agent.toml:5: [main] gid: must be at least 1, not 0",
        "agent.toml:6: [main] nid: must be a whole number, not text",
        "agent.toml:7: [main] max_job: is not a setting of this section, did you mean 'max_jobs'?",
        "agent.toml:8: [main] roles: must be a list of texts, but item 1 is a whole number",
        "agent.toml:10: [controllers.main] url: must begin with http:// or https://: 'ftp://***@host'",
        "agent.toml:12: [controllers.other] url: names no host: 'http://***@/x'",
        "agent.toml:14: [controllers] third: must be a table, not a whole number",
        "agent.toml:15: [extension.foo] binary: is missing: The program: a path, or a name found in PATH.",
        "agent.toml:16: [extension.foo] args: must be a list of texts, not a whole number",
        "agent.toml:18: [channel] cmds: there is no controller 'mian', did you mean 'main'?",
        "agent.toml:20: [logging.a] type: must be one of DB, AC, console, not 'bd'",
        "agent.toml:23: [logging] c: is a second logger of type DB beside 'b', keep one of them",
        "agent.toml:25: [logging.c] levels: is no list of levels: the range 5-1 is reversed",
        "agent.toml:26: [logging.c] flush_int: is not a setting of this logger (type DB), "
        "it belongs to [logging.<name> (type AC)]",
        "agent.toml:27: [logging.d] type: is missing: DB, AC or console.",
        "agent.toml:29: [stats] controllers: there is no controller 'nobody' (configured: main, other)",
        "agent.toml:30: [stats] interval: must be a whole number, not true or false",
        "agent.toml:31: [startup] agent: the id 'agent' is reserved for the agent's own log",
        "agent.toml:33: [startup.agent] args: must be a table, not a whole number",
        "agent.toml:36: [startup.a] after: these tasks wait for each other: a -> b -> a",
        "agent.toml:38: [startup.a.args] loglevels: 'a' is not a level, a range of levels or *",
        "agent.toml:41: [startup.b] after: there is no startup task 'x'",
    ]


MAIN = "[main]\ngid = 1\nnid = 1\n"
CONTROLLER = MINIMAL.removeprefix("\n")

ONE_PROBLEM = {
    "no gid": ("[main]\nnid = 1", "[main] gid: is missing"),
    "zone in a url": (
        "[main]\ngid = 1\nnid = 1\n[controllers.x]\nurl = 'http://[fe80::1%25lo]:8966'",
        "[controllers.x] url: names a zone of IPv6, which is not supported",
    ),
    "link-local url": (
        "[main]\ngid = 1\nnid = 1\n[controllers.x]\nurl = 'http://[fe80::1]:8966'",
        "[controllers.x] url: names a link-local address of IPv6, which is none without its zone",
    ),
    "negative nid": ("[main]\ngid = 1\nnid = -1", "nid: must be at least 1, not -1"),
    "gid a float": ("[main]\ngid = 1.0\nnid = 1", "gid: must be a whole number, not 1.0"),
    "half a number": (
        MAIN + "[stats]\ninterval = 1.5",
        "agent.toml:5: [stats] interval: must be a whole number, not 1.5",
    ),
    "section known by its parts alone": (
        MAIN + "[controlers.main]\nurl = 'http://h'",
        "agent.toml:4: [controlers]: is not a section, did you mean 'controllers'?",
    ),
    "too large": ("[main]\ngid = 99999999999999999999\nnid = 1", "gid: is too large"),
    "no jobs": (MAIN + "max_jobs = 0", "max_jobs: must be at least 1"),
    "negative time": (MAIN + "kill_grace = -1", "kill_grace: must be at least 0, not -1"),
    "empty path": (MAIN + "message_id_file = ''", "message_id_file: must not be empty"),
    "NUL in a path": (MAIN + 'message_id_file = "a\\u0000b"', "message_id_file: holds a NUL"),
    "same file twice": (
        MAIN + "history_file = 'a'\nledger_file = './a'",
        "ledger_file: is the same file as history_file",
    ),
    "flag as text": (MAIN + "allow_reboot = 'yes'", "allow_reboot: must be true or false, not text"),
    "role without a name": (MAIN + "roles = ['']", "roles: holds the item '', which is empty"),
    "short lines": (MAIN + "max_line = 1", "max_line: must be at least 1024"),
    "url missing": (MAIN + "[controllers.a]", "[controllers.a] url: is missing"),
    "url without host": (MAIN + "[controllers.a]\nurl = 'http://'", "url: names no host"),
    "url with bad port": (MAIN + "[controllers.a]\nurl = 'http://h:99999'", "is no URL"),
    "url with query": (MAIN + "[controllers.a]\nurl = 'http://h/?a=1'", "query"),
    "url with blanks": (MAIN + "[controllers.a]\nurl = 'http://h/a b'", "blanks"),
    "url without scheme": (MAIN + "[controllers.a]\nurl = 'localhost:8966'", "must begin with http:// or https://"),
    "misspelt key of a controller": (CONTROLLER + "[controllers.main.securty]\na = 1", "did you mean 'security'?"),
    "misspelt file": (CONTROLLER + "[controllers.main.security]\nclient_certifcate = ''", "'client_certificate'?"),
    "empty controller name": (
        MAIN + "[controllers.'']\nurl = 'http://h'",
        "agent.toml:4: Can't have a keygroup with an empty name",
    ),
    "long controller name": (MAIN + f"[controllers.{'a' * 201}]\nurl = 'http://h'", "1 to 200 characters"),
    "polling nobody": (MAIN + "[channel]\ncmds = ['a']", "there is no controller 'a' (configured: none)"),
    "logger to nobody": (CONTROLLER + "[logging.a]\ntype = 'AC'\ncontrollers = ['man']", "did you mean 'main'?"),
    "logger of type syslog": (
        MAIN + "[logging.a]\ntype = 'syslog'\naddress = 'x'",
        "must be one of DB, AC, console, not 'syslog'",
    ),
    "logger type a number": (MAIN + "[logging.a]\ntype = 3", "type: must be text, not a whole number"),
    "level 0": (MAIN + "[logging.a]\ntype = 'console'\nlevels = [0]", "levels begin at 1"),
    "level word": (MAIN + "[logging.a]\ntype = 'console'\nlevels = ['all']", "is no list of levels"),
    "batch of none": (CONTROLLER + "[logging.a]\ntype = 'AC'\nbatch_size = 0", "batch_size: must be at least 1"),
    "tiny database": (MAIN + "[logging.a]\ntype = 'DB'\nmax_db_size = 10", "0 (no limit) or at least 262144"),
    "key layout": (MAIN + "[stats]\nkey_layout = 'new'", "must be one of seed, later"),
    "metrics without port": (MAIN + "[metrics]\nlisten = 'localhost'", "must be HOST:PORT"),
    "metrics with bad port": (MAIN + "[metrics]\nlisten = '[::1]:70000'", "a port from 0 to 65535"),
    "env of numbers": (MAIN + "[extensions.a]\nbinary = 'x'\nenv = {A = 1}", "but 'A' is a whole number"),
    "env name": (MAIN + "[extensions.a]\nbinary = 'x'\n[extensions.a.env]\n'A=B' = ''", "impossible variable"),
    "extension in both sections": (
        MAIN + "[extensions.a]\nbinary = 'x'\n[extension.a]\nbinary = 'y'",
        "[extension] a: this extension is also given",
    ),
    "startup without command": (MAIN + "[startup.a]", "[startup.a] name: is missing"),
    "startup waits for itself": (MAIN + "[startup.a]\nname = 'x'\nafter = ['a']", "names the task itself"),
    "startup id too long": (MAIN + f"[startup.{'a' * 201}]\nname = 'x'", "1 to 200 characters"),
    "startup arguments": (
        MAIN + "[startup.a]\nname = 'x'\nargs = {args = 'x'}",
        "[startup.a.args] args: must be a list, not text",
    ),
    "startup restart": (
        MAIN + "[startup.a]\nname = 'x'\nargs = {restart = 'never'}",
        "[startup.a.args] restart: must be 'always', not 'never'",
    ),
    "section is no table": ("main = 1", "[main]: must be a table"),
}


@pytest.mark.parametrize(("text", "reason"), ONE_PROBLEM.values(), ids=ONE_PROBLEM.keys())
def test_a_problem_is_named(tmp_path: Path, text: str, reason: str) -> None:
    found = problems(tmp_path, text)
    assert len([line for line in found if reason in line]) == 1, found
    if "main = 1" not in text and "is missing" not in reason:
        assert len(found) == 1


def test_what_only_the_originals_know_is_accepted_with_one_warning_each(tmp_path: Path) -> None:
    text = """\
[main]
gid = 1
nid = 2
message_ID_file = "/tmp/mid"
include = "conf.d"
[controllers.main]
url = "http://localhost:8966/"
[logging.db]
type = "db"
address = "/x"
[hubble]
controllers = []
[extension.a]
binary = "a"
[stats.ac]
enabled = true
"""
    loaded = load(tmp_path, text)
    assert loaded.settings.main.message_id_file == Path("/tmp/mid")
    assert loaded.settings.controllers["main"].url == "http://localhost:8966"
    assert set(loaded.settings.extensions) == {"a"}
    keys = ["message_ID_file", "include", "address", "hubble", "ac"]
    assert len(loaded.warnings) == len(keys)
    for key in keys:
        assert len([warning for warning in loaded.warnings if f" {key}: " in warning or f"[{key}]: " in warning]) == 1


def test_the_original_spelling_gives_way_to_the_seeds(tmp_path: Path) -> None:
    text = MAIN + "message_ID_file = 'later'\nmessage_id_file = 'seed'\n" + "[controllers.a]\nurl = 'https://h'\n"
    loaded = load(tmp_path, text)
    assert loaded.settings.main.message_id_file == tmp_path / "seed"
    (warning,) = loaded.warnings
    assert warning.endswith("message_ID_file: is not used beside message_id_file")


def test_flags_beat_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    environment = {
        "GREENAGENT_MAIN_GID": "5",
        "GREENAGENT_MAIN_NID": "6",
        "GREENAGENT_MAIN_ROLES": "a, b",
        "GREENAGENT_MAIN_KILL_GRACE": "0.5",
        "GREENAGENT_MAIN_ALLOW_REBOOT": "true",
        "GREENAGENT_CHANNEL_CMDS": "main",
        "GREENAGENT_METRICS_LISTEN": "127.0.0.1:9464",
    }
    loaded = load(tmp_path, MINIMAL, environment, gid="7", nid=None, roles=["x"])
    main = loaded.settings.main
    assert (main.gid, main.nid, main.roles) == (7, 6, ("x",))
    assert (main.kill_grace, main.allow_reboot) == (0.5, True)
    assert loaded.settings.channel.cmds == ("main",)
    assert loaded.settings.metrics.listen == "127.0.0.1:9464"
    origins = loaded.settings.origins
    names = ("main.gid", "main.nid", "controllers.main.url", "main.max_jobs")
    assert [origins[name] for name in names] == ["flag", "environment", "file", "default"]


def test_variables_and_flags_can_give_what_the_file_lacks(tmp_path: Path) -> None:
    assert problems(tmp_path, "[main]\nnid = 0", {"GREENAGENT_MAIN_GID": "1"}, nid=4) == []


def test_problems_of_variables_and_flags_name_them(tmp_path: Path) -> None:
    found = problems(tmp_path, MINIMAL, {"GREENAGENT_MAIN_MAX_JOBS": "many", "GREENAGENT_CHANNEL_CMDS": "x"}, gid="0")
    assert "GREENAGENT_MAIN_MAX_JOBS: must be a whole number, not 'many'" in found
    assert "--gid: must be at least 1, not 0" in found
    assert any("there is no controller 'x'" in line for line in found)
    assert len(found) == 3


def test_an_unknown_variable_is_a_warning_but_those_of_other_programs_are_not(tmp_path: Path) -> None:
    environment = {
        "GREENAGENT_MAIN_GDI": "1",
        "GREENAGENT_CONTROLLERS_MAIN_URL": "http://x",
        "GREENAGENT_JOB": "x",
        "GREENAGENT_CTL_URL": "x",
        "PATH": "/bin",
    }
    found = warnings(tmp_path, MINIMAL, environment)
    assert found == [
        "GREENAGENT_CONTROLLERS_MAIN_URL: this variable sets nothing, did you mean 'GREENAGENT_STATS_CONTROLLERS'?",
        "GREENAGENT_MAIN_GDI: this variable sets nothing, did you mean 'GREENAGENT_MAIN_GID'?",
    ]


ORIGINALS = {
    "the first": """
[main]
gid = 1
nid = 10
max_jobs = 100
message_ID_file = "./.mid"
history_file = "./.history"
roles = []
[controllers]
    [controllers.main]
    url = "http://localhost:8966"
        [controllers.main.security]
        client_certificate = ""
        client_certificate_key = ""
        certificate_authority = ""
[extensions]
    [extensions.syncthing]
    binary = "./syncthing"
    cwd = "./extensions/syncthing"
    args = ["-home", "./home", "-gui-address", "127.0.0.1:18384"]
[logging]
    [logging.db]
    type = "DB"
    log_dir = "./logs"
    levels = [2, 4, 7, 8, 9, 11]
[stats]
interval = 60
controllers = []
[channel]
cmds = []
[hubble]
controllers = []
""",
    "a later one": """
[main]
gid = 1
nid = 1
max_jobs = 100
message_ID_file = "./.mid"
include = "./conf"
network = "./network.toml"
[controllers.main]
url = "http://127.0.0.1:8966"
[logging.db]
type = "DB"
address = "./logs"
levels = [2, 4, 7, 8, 9, 11]
[logging.redis]
type = "redis"
address = "127.0.0.1:6379"
[logging.ac]
type = "AC"
flush_int = 300
batch_size = 1000
[stats]
interval = 60000
[redis_stats]
address = "127.0.0.1:6379"
enabled = false
[stats.ac]
enabled = true
[stats.redis]
enabled = false
[hubble]
controllers = []
""",
}


@pytest.mark.parametrize("text", ORIGINALS.values(), ids=ORIGINALS)
def test_the_files_of_the_original_agents_load_and_what_is_not_used_is_said(tmp_path: Path, text: str) -> None:
    said = "\n".join(warnings(tmp_path, text))
    assert load(tmp_path, text).settings.controllers["main"].url
    for key in ("hubble", "redis_stats", "network", "include", "address", "ac"):
        if f"{key}]" in text or f"\n{key} =" in text:
            assert key in said
    assert ("[logging] redis" in said) == ("logging.redis" in text)
    assert ("is 60000 seconds; if milliseconds are meant, as original agents count them, write 60" in said) == (
        "60000" in text
    )
    assert [line.rpartition(", write ")[2] for line in said.splitlines() if "if milliseconds are meant" in line] == (
        ["60"] if "60000" in text else []
    )


def test_variables_for_jobs_are_given_by_file_or_variable(tmp_path: Path) -> None:
    text = MINIMAL.replace("[main]", '[main]\nenv = {TZ = "UTC"}', 1)
    assert load(tmp_path, text).settings.main.env == {"TZ": "UTC"}
    given = {"GREENAGENT_MAIN_ENV": "LANG=C.UTF-8, A=b=c,EMPTY="}
    assert load(tmp_path, text, given).settings.main.env == {"LANG": "C.UTF-8", "A": "b=c", "EMPTY": ""}
    (problem,) = problems(tmp_path, text, {"GREENAGENT_MAIN_ENV": "LANG"})
    assert "must be NAME=VALUE, comma-separated, not 'LANG'" in problem
    (problem,) = problems(tmp_path, text.replace('"UTC"', "1"))
    assert "must be a table of texts, but 'TZ' is a whole number" in problem


def test_no_controller_is_allowed_with_a_warning(tmp_path: Path) -> None:
    assert warnings(tmp_path, MAIN) == ["agent.toml: no controller is configured, only startup tasks run"]


def test_run_arguments_that_an_extension_uses_are_known(tmp_path: Path) -> None:
    text = CONTROLLER + (
        "[extensions.backup]\nbinary = 'x'\nargs = ['{database}', '--to={target}']\n"
        "[startup.a]\nname = 'backup'\nargs = {database = 'd', target = 't', qeue = 'q'}\n"
    )
    (warning,) = warnings(tmp_path, text)
    assert "qeue: is not a known run argument and is kept, did you mean 'queue'?" in warning


def test_startup_conditions_may_form_any_graph_without_circles(tmp_path: Path) -> None:
    tasks = "".join(
        f"[startup.t{number}]\nname = 'execute'\nafter = {[f't{other}' for other in range(number)]}\n"
        for number in range(30)
    )
    loaded = load(tmp_path, CONTROLLER + tasks)
    assert loaded.settings.startup[29].after == tuple(f"t{number}" for number in range(29))
    circle = CONTROLLER + "".join(f"[startup.c{n}]\nname = 'x'\nafter = ['c{(n + 1) % 50}']\n" for n in range(50))
    (problem,) = problems(tmp_path, circle)
    assert problem.count(" -> ") == 50


def test_references_to_no_controller_at_all_mean_all_of_them(tmp_path: Path) -> None:
    text = CONTROLLER + (
        "[controllers.second]\nurl = 'https://other/base/'\n[channel]\ncmds = ['second', 'second']\n"
        "[logging.a]\ntype = 'ac'\n[logging.b]\ntype = 'Ac'\ncontrollers = ['second']\n[logging.c]\ntype = 'CONSOLE'\n"
    )
    settings = load(tmp_path, text).settings
    assert settings.channel.cmds == ("second",)
    assert [logger.controllers for logger in settings.controller_loggers] == [("main", "second"), ("second",)]
    assert settings.stats.controllers == ("main", "second")
    assert settings.controllers["second"].url == "https://other/base"
    assert settings.database_logger is None
    assert [logger.name for logger in settings.console_loggers] == ["c"]


def test_metrics_served_beyond_this_machine_are_a_warning(tmp_path: Path) -> None:
    for listen, said in {
        "127.0.0.1:1": 0,
        "[::1]:1": 0,
        "localhost:1": 0,
        "0.0.0.0:1": 1,
        "[::]:1": 1,
        "n7:1": 1,
    }.items():
        found = warnings(tmp_path, MINIMAL + f"[metrics]\nlisten = '{listen}'\n")
        assert len([line for line in found if "[metrics] listen: is not a loopback address" in line]) == said, listen


def test_a_limit_of_open_files_below_what_max_jobs_needs_is_a_warning(tmp_path: Path) -> None:
    few = load(tmp_path, MINIMAL + "", {"GREENAGENT_MAIN_MAX_JOBS": "1"}).settings
    assert check_limits(few) == ()
    many = load(tmp_path, MINIMAL, {"GREENAGENT_MAIN_MAX_JOBS": str(10**12)}).settings
    (warning,) = check_limits(many)
    assert "raise it" in warning


def test_more_pairs_of_logger_and_controller_than_a_line_has_marks_for_are_one_problem(tmp_path: Path) -> None:
    controllers = "".join(f"[controllers.c{number}]\nurl = 'http://h'\n" for number in range(31))
    two = MAIN + controllers + "[logging.a]\ntype = 'AC'\n[logging.b]\ntype = 'AC'\n"
    assert len(load(tmp_path, two).settings.controller_loggers) == 2
    three = two + "[logging.c]\ntype = 'AC'\nlevels = [2]\ncontrollers = ['c0']\n[logging.d]\ntype = 'AC'\n"
    assert problems(tmp_path, three) == [
        "agent.toml:74: [logging.d] controllers: there are 94 pairs of an AC logger and one of its controllers, "
        "no more than 62 are possible: name fewer controllers"
    ]


def test_settings_error_holds_all_lines(tmp_path: Path) -> None:
    shutil.copy(SEED, tmp_path / "copy.toml")
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "copy.toml", {}, {"gid": "x", "nid": "y"})
    assert len(caught.value.problems) == 2
    assert str(caught.value) == "\n".join(caught.value.problems)
