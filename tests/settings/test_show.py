"""The printed configuration: complete, with origins, without secrets."""

from pathlib import Path

from greenagent.settings import load_settings
from greenagent.settings.models import MODELS
from greenagent.settings.schema import declared
from greenagent.settings.show import print_config
from tests.settings.support import MINIMAL, load

SEED = Path(__file__).parent.parent / "data" / "seed-config.toml"


def test_printed_lines_are_complete_and_name_the_origin() -> None:
    loaded = load_settings(SEED, {"GREENAGENT_MAIN_NID": "11"}, {"roles": "a,b"})
    lines = print_config(loaded.settings).splitlines()
    assert "main.gid = 1  # file" in lines
    assert "main.nid = 11  # environment" in lines
    assert 'main.roles = ["a", "b"]  # flag' in lines
    assert f'main.ledger_file = "{SEED.parent}/.history.db"  # default' in lines
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
        "[extensions.a]\nbinary = 'x'\nargs = ['--from=https://me:hunter3@host/x', 'ftp://a:hunter?8@h,http://b:hunter#9@h']\n"
        "env = {DB_PASSWORD = 'hunter4', API_TOKEN = 'hunter5', MYSQL_PWD = 'hunter1'}\n"
        "[startup.b]\nname = 'a'\ndata = 'ftp://hunter6@host'\nargs = {env = {SECRET_KEY = 'hunter7'}, domain = 'x'}\n"
    )
    printed = print_config(load(tmp_path, text).settings)
    assert "hunter" not in printed
    assert "***@localhost:8966" in printed
    assert 'extensions.a.env = {"DB_PASSWORD" = "***", "API_TOKEN" = "***", "MYSQL_PWD" = "***"}' in printed
    assert 'extensions.a.args = ["***", "***"]' in printed
    assert 'startup.b.args = {"env" = "***", "domain" = "***"}' in printed
    assert 'startup.b.data = "***"' in printed
    assert print_config(load(tmp_path, text).settings, secrets=True).count("hunter") == 9
