"""What a reload applies to a running agent, and what needs a restart."""

from pathlib import Path

from greenagent.settings.reload import changes, merge
from tests.settings.support import MINIMAL, load


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
        f'logging.db.log_dir: "{tmp_path}/logs" -> "{tmp_path}/x"',
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


def test_a_running_agent_goes_on_with_the_settings_that_apply_live(tmp_path: Path) -> None:
    before = load(tmp_path, MINIMAL + "[logging.db]\ntype = 'DB'\n[logging.c]\ntype = 'console'\n").settings
    after = load(
        tmp_path,
        MINIMAL.replace("nid = 2", "nid = 3\nmax_jobs = 5").replace("8966", "8967")
        + "[extensions.e]\nbinary = 'b'\n[logging.db]\ntype = 'DB'\nlevels = [2]\nlog_dir = 'x'\n"
        + "[logging.c]\ntype = 'AC'\n[logging.new]\ntype = 'AC'\n[startup.s]\nname = 'b'\n[stats]\ninterval = 5\n",
    ).settings
    merged = merge(before, after)
    assert (merged.main.nid, merged.main.max_jobs, merged.stats.interval) == (2, 5, 5)
    assert merged.controllers["main"].url == "http://localhost:8967"
    assert (set(merged.extensions), merged.startup) == ({"e"}, ())
    database, console = merged.loggers
    assert (database.levels, database.log_dir) == (after.loggers[0].levels, before.loggers[0].log_dir)
    assert console is before.loggers[1]
    assert changes(merged, after).applied == ()
    assert changes(merged, after).needs_restart == changes(before, after).needs_restart
