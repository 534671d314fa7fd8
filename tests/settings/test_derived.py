"""What derives from the table: the printed configuration, the page, and the reload plan."""

from pathlib import Path

from greenagent.settings import load_settings
from greenagent.settings.document import configuration_page
from greenagent.settings.models import MODELS
from greenagent.settings.reload import changes
from greenagent.settings.schema import declared
from greenagent.settings.show import print_config
from tests.settings.support import MINIMAL, load

PAGE = Path(__file__).parent.parent.parent / "docs" / "configuration.md"
SEED = Path(__file__).parent.parent / "data" / "seed-config.toml"


def test_the_page_is_what_the_table_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == configuration_page(), "run: python -m greenagent.settings.document > docs/configuration.md"
    for model in MODELS:
        part = text.split(f"## `[{model.section.pattern}]`")
        assert len(part) > 1, model
        for name in declared(model):
            assert any(f"\n| `{name}` |" in piece.split("\n## ")[0] for piece in part[1:]), name


def test_printed_lines_are_complete_and_name_the_origin() -> None:
    loaded = load_settings(SEED, {"GREENAGENT_MAIN_NID": "11"}, {"roles": "a,b"})
    lines = print_config(loaded.settings).splitlines()
    assert "main.gid = 1  # file" in lines
    assert "main.nid = 11  # environment" in lines
    assert 'main.roles = ["a", "b"]  # flag' in lines
    assert 'main.ledger_file = ".history.db"  # default' in lines
    assert "main.kill_grace = 5  # default" in lines
    assert 'logging.db.type = "DB"  # file' in lines
    assert 'logging.console.levels = "2,4,7-9"  # file' in lines
    assert all("  # " in line for line in lines)
    shown = {line.split(" = ")[0] for line in lines}
    for model in MODELS:
        if "<" not in model.section.pattern:
            assert {f"{model.section.pattern}.{name}" for name in declared(model)} <= shown


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    text = MINIMAL.replace("localhost", "user:hunter2@localhost") + (
        "[extensions.a]\nbinary = 'x'\nargs = ['--from=https://me:hunter3@host/x']\n"
        "env = {DB_PASSWORD = 'hunter4', API_TOKEN = 'hunter5', PLAIN = 'seen'}\n"
        "[startup.b]\nname = 'a'\ndata = 'ftp://hunter6@host'\nargs = {env = {SECRET_KEY = 'hunter7'}, domain = 'x'}\n"
    )
    printed = print_config(load(tmp_path, text).settings)
    assert "hunter" not in printed
    assert "***@localhost:8966" in printed
    assert '"PLAIN" = "seen"' in printed
    assert "https://***@host/x" in printed


def test_what_a_reload_applies_and_what_needs_a_restart(tmp_path: Path) -> None:
    before = load(
        tmp_path,
        MINIMAL
        + "[controllers.gone]\nurl = 'http://gone'\n[extensions.e]\nbinary = 'a'\n"
        + "[logging.db]\ntype = 'DB'\n[logging.ac]\ntype = 'AC'\n[logging.c]\ntype = 'console'\n"
        + "[startup.s]\nname = 'a'\n",
    ).settings
    after = load(
        tmp_path,
        MINIMAL.replace("nid = 2", "nid = 3\nmax_jobs = 5\nroles = ['r']\nkill_grace = 1").replace("8966", "8967")
        + "[controllers.main.security]\nclient_certificate = ''\n[controllers.new]\nurl = 'http://new'\n"
        + "[extensions.e]\nbinary = 'b'\n[extensions.f]\nbinary = 'c'\n"
        + "[logging.db]\ntype = 'DB'\nlevels = [2]\nlog_dir = 'x'\n"
        + "[logging.ac]\ntype = 'AC'\nflush_int = 1\nbatch_size = 5\n[logging.c]\ntype = 'AC'\n"
        + "[stats]\ninterval = 5\nmeter_interval = 1\nkey_layout = 'later'\n[metrics]\nlisten = 'h:1'\n"
        + "[startup.s]\nname = 'b'\n[startup.t]\nname = 'b'\n[channel]\ncmds = ['main']\n",
    ).settings
    plan = changes(before, after)
    assert plan.applied == (
        "main.max_jobs: 100 -> 5",
        'main.roles: [] -> ["r"]',
        'controllers.main.url: "http://localhost:8966" -> "http://localhost:8967"',
        "controllers.gone removed",
        'extensions.e.binary: "a" -> "b"',
        'channel.cmds: ["main", "gone"] -> ["main"]',
        'logging.db.levels: [] -> "2"',
        "logging.ac.flush_int: 300 -> 1",
        'logging.ac.controllers: ["main", "gone"] -> ["main", "new"]',
        "stats.interval: 60 -> 5",
        'stats.controllers: ["main", "gone"] -> ["main", "new"]',
        "stats.meter_interval: 2 -> 1",
        "controllers.new added",
        "extensions.f added",
    )
    assert plan.needs_restart == (
        "main.nid: 2 -> 3",
        "main.kill_grace: 5 -> 1",
        'logging.db.log_dir: "logs" -> "x"',
        "logging.ac.batch_size: 1000 -> 5",
        "logging.c has another type",
        'stats.key_layout: "seed" -> "later"',
        'metrics.listen: "" -> "h:1"',
        'startup.s.name: "a" -> "b"',
        "startup.t added",
    )
    assert not plan.nothing
    assert changes(before, before).nothing


def test_a_reload_plan_shows_no_passwords(tmp_path: Path) -> None:
    before = load(tmp_path, MINIMAL).settings
    after = load(tmp_path, MINIMAL.replace("localhost", "user:hunter2@localhost")).settings
    (line,) = changes(before, after).applied
    assert "hunter2" not in line
