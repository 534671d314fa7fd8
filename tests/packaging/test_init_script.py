"""The init script through its whole life, with the real agent and as root."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from greenagent import __version__
from tests.support.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
INIT_SCRIPT = ROOT / "etc" / "init.d" / "greenagent"
CONFIGURATION = """
[main]
gid = 1
nid = 1
message_id_file = "FOLDER/state/message-id"
history_file = "FOLDER/state/history"
[controllers.nobody]
url = "http://127.0.0.1:9"
[logging.db]
type = "DB"
log_dir = "FOLDER/logs"
"""


@dataclass
class Service:
    """A service of its own in a folder: the script, its defaults, and a program to run."""

    folder: Path
    script: Path
    defaults: dict[str, str] = field(default_factory=dict)

    @property
    def pid_file(self) -> Path:
        return Path(self.defaults["PIDFILE"])

    @property
    def configuration(self) -> Path:
        return Path(self.defaults["CONFIG"])

    more: str = ""
    """Lines of the defaults file as they stand."""

    def run(self, *arguments: str) -> tuple[int, str]:
        """The exit code of the script and all that it printed."""
        lines = [*(f"{name}='{value}'\n" for name, value in self.defaults.items()), self.more]
        (self.folder / "defaults").write_text("".join(lines))
        output = self.folder / "printed"
        with open(output, "wb") as printed:
            # A file, not a pipe: a pipe would stay open in a background process and never end.
            done = subprocess.run(
                ["/bin/sh", str(self.script), *arguments],
                env={**os.environ, "DEFAULTS": str(self.folder / "defaults")},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                timeout=100,
                check=False,
            )
        return done.returncode, output.read_text()

    def pid(self) -> int:
        return int(self.pid_file.read_text())

    def end(self) -> None:
        """Leaves nothing running, whatever the test did."""
        try:
            os.kill(self.pid(), signal.SIGKILL)
        except (OSError, ValueError):
            pass


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def service() -> Iterator[Service]:
    """A service with nothing in it yet; every user may look into its folder."""
    if os.geteuid() != 0:
        pytest.skip("SKIPPED FOR LACK OF ROOT: run the tests as root to take the init script through its life")
    folder = Path(tempfile.mkdtemp(prefix="greenagent-init-"))
    folder.chmod(0o755)
    script = folder / "init-script"  # a copy: some tests change it
    script.write_text(INIT_SCRIPT.read_text())
    service = Service(
        folder,
        script,
        {
            "DAEMON": str(folder / "greenagent"),
            "CONFIG": str(folder / "agent.toml"),
            "PIDFILE": str(folder / "run" / "agent.pid"),
            "DIRECTORY": str(folder / "state"),
            "OUTPUT": str(folder / "output" / "agent.out"),
        },
    )
    service.configuration.write_text(CONFIGURATION.replace("FOLDER", str(folder)))
    yield service
    service.end()
    shutil.rmtree(folder)


@pytest.fixture
def agent(service: Service) -> Service:
    """The service with the real agent as its program, as pip would install it."""
    launcher = f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    launcher += "from greenagent.cli.agent.__main__ import main\nsys.exit(main())\n"
    program = Path(service.defaults["DAEMON"])
    program.write_text(launcher)
    program.chmod(0o755)
    return service


def test_what_does_not_run(agent: Service) -> None:
    code, text = agent.run("status")
    assert (code, text) == (3, "greenagent: is not running\n")
    assert agent.run("stop") == (0, "greenagent: is not running\n")
    assert agent.run("try-restart") == (0, "greenagent: is not running\n")
    assert agent.run("reload") == (7, "greenagent: is not running\n")
    assert agent.run("force-reload")[0] == 7


@pytest.mark.parametrize("arguments", [(), ("stat",), ("start", "now")])
def test_wrong_arguments(agent: Service, arguments: tuple[str, ...]) -> None:
    code, text = agent.run(*arguments)
    assert code == 2
    assert text.startswith("Usage: ")
    assert not agent.pid_file.exists()


def test_from_start_to_stop(agent: Service) -> None:
    code, text = agent.run("start")
    assert code == 0, text
    pid = agent.pid()
    assert f"started (pid {pid})" in text
    assert os.readlink(f"/proc/{pid}/cwd") == agent.defaults["DIRECTORY"]
    assert os.getsid(pid) == pid
    code, text = agent.run("status")
    first, *more = text.splitlines()
    assert (code, first) == (0, f"greenagent: is running (pid {pid})")
    assert re.match(rf"  greenagent {re.escape(__version__)} 1:1, process {pid}, up \d+\.\ds, healthy ", more[0])
    assert more[1] == "  jobs: 0 running, 0 waiting, ended since its start: none"

    assert agent.run("start") == (0, f"greenagent: is already running (pid {pid})\n")
    assert agent.pid() == pid

    code, text = agent.run("reload")
    assert code == 0, text
    assert running(pid)

    code, text = agent.run("restart")
    assert code == 0, text
    assert text.count("the configuration is fine") == 1
    assert agent.pid() != pid
    assert not running(pid)
    pid = agent.pid()

    code, text = agent.run("try-restart")
    assert code == 0, text
    assert agent.pid() != pid
    pid = agent.pid()

    assert agent.run("stop") == (0, "greenagent: stopped\n")
    assert not running(pid)
    assert not agent.pid_file.exists()
    assert agent.run("status")[0] == 3


def test_a_killed_agent_leaves_a_stale_pid_file(agent: Service) -> None:
    assert agent.run("start")[0] == 0
    first = agent.pid()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not running(first), what="the end of the agent")
    code, text = agent.run("status")
    assert code == 1
    assert "is not running, but" in text
    code, text = agent.run("stop")
    assert code == 0
    assert "removed the stale" in text
    assert not agent.pid_file.exists()
    assert agent.run("start")[0] == 0
    os.kill(agent.pid(), signal.SIGKILL)
    wait_until(lambda: not running(agent.pid()), what="the end of the agent")
    assert agent.run("start")[0] == 0
    assert agent.run("status")[0] == 0
    assert agent.run("stop")[0] == 0


@contextlib.contextmanager
def in_pid_file(service: Service, words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of another program whose number the pid file holds; ended with all it started."""
    other = subprocess.Popen(words, start_new_session=True)
    try:
        service.pid_file.parent.mkdir()
        service.pid_file.write_text(f"{other.pid}\n")
        yield other
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()


@pytest.mark.parametrize(
    "command", ["sleep 1000", "tail -f FOLDER/greenagent-notes", "cat --pid-file FOLDER/other.pid -"]
)
def test_a_pid_that_went_to_another_program_is_left_alone(service: Service, command: str) -> None:
    program(service, "")
    (service.folder / "greenagent-notes").touch()
    (service.folder / "cat").write_text("#!/bin/sh\nsleep 1000 & wait\n")
    (service.folder / "cat").chmod(0o755)
    words = command.replace("FOLDER", str(service.folder)).split()
    if words[0] == "cat":
        words[0] = str(service.folder / "cat")
    with in_pid_file(service, words) as other:
        assert service.run("status")[0] == 1
        assert service.run("reload")[0] == 7
        assert service.run("stop")[0] == 0
        service.pid_file.write_text(f"{other.pid}\n")
        assert service.run("start")[0] == 0
        assert service.pid() != other.pid
        assert service.run("restart")[0] == 0
        assert service.run("stop")[0] == 0
        assert other.poll() is None


def test_a_process_of_another_user_is_left_alone_whatever_its_arguments_say(service: Service) -> None:
    """What a job writes into the pid file, or calls itself, gives it no process of root."""
    program(service, "")
    service.defaults["USER"] = "daemon"
    pid_file = str(service.pid_file)
    words = ["/bin/sh", "-c", "sleep 1000 & wait", "agent", "--pid-file", pid_file]
    with in_pid_file(service, words) as other:
        assert service.run("status")[0] == 1
        assert service.run("stop")[0] == 0
        assert service.run("stop") == (0, "greenagent: is not running\n")
        assert other.poll() is None


def test_an_agent_whose_pid_file_went_is_still_known(service: Service) -> None:
    program(service, "")
    assert service.run("start")[0] == 0
    pid = service.pid()
    try:
        service.pid_file.unlink()
        assert service.run("status") == (0, f"greenagent: is running (pid {pid})\n")
        assert service.run("start") == (0, f"greenagent: is already running (pid {pid})\n")
        assert service.run("stop") == (0, "greenagent: stopped\n")
        assert not running(pid)
    finally:
        if running(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_program_of_any_name_is_known(service: Service) -> None:
    service.defaults["DAEMON"] = str(service.folder / "ga")
    program(service, "")
    assert service.run("start")[0] == 0
    assert service.run("status")[0] == 0
    assert service.run("stop")[0] == 0


@pytest.mark.parametrize("kind", ["link to a file", "link to nothing", "pipe"])
def test_root_opens_nothing_that_a_job_put_in_the_place_of_the_output(service: Service, kind: str) -> None:
    program(service, "")
    service.defaults["USER"] = "daemon"
    assert service.run("start")[0] == 0
    assert service.run("stop")[0] == 0
    output = Path(service.defaults["OUTPUT"])
    assert (output.owner(), output.stat().st_mode & 0o777) == ("daemon", 0o640)
    mine = service.folder / "of-root"
    mine.mkdir(0o700)
    target = mine / "secret"
    output.unlink()
    if kind == "pipe":
        os.mkfifo(output)
        os.chown(output, service.pid_file.parent.stat().st_uid, -1)
    else:
        os.symlink(target, output)
    if kind == "link to a file":
        target.write_text("as it was")
    code, text = service.run("start")
    assert code == 1
    assert f"cannot write to {output}" in text
    assert not service.pid_file.exists()
    assert target.exists() == (kind == "link to a file")
    if target.exists():
        assert (target.read_text(), target.owner()) == ("as it was", "root")


def test_root_makes_and_removes_nothing_where_a_link_on_the_way_leads(service: Service) -> None:
    program(service, "")
    service.defaults["USER"] = "daemon"
    assert service.run("start")[0] == 0
    assert service.run("stop")[0] == 0
    mine = service.folder / "of-root"
    mine.mkdir(0o700)
    link = service.pid_file.parent / "link"  # as a job can, in the folder of its user
    link.symlink_to(mine)
    os.lchown(link, link.parent.stat().st_uid, -1)
    service.defaults["PIDFILE"] = str(link / "new" / "agent.pid")
    code, text = service.run("start")
    assert code == 1
    assert f"cannot make the folder {link}/new" in text
    assert not list(mine.iterdir())
    service.defaults["PIDFILE"] = str(link / "agent.pid")
    (mine / "agent.pid").write_text("of root\n")
    assert service.run("stop")[0] == 0
    assert (mine / "agent.pid").exists()


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("OPTIONS=--roles web,database", ["--roles", "web,database"]),
        ('  OPTIONS="--roles web,database"  ', ["--roles", "web,database"]),
        ("OPTIONS='--roles *'", ["--roles", "*"]),
        ("# OPTIONS=--check\n; nothing\n\nOPTIONS=", []),
    ],
)
def test_a_line_of_the_defaults_file_means_what_systemd_takes_it_for(
    service: Service, line: str, arguments: list[str]
) -> None:
    program(service, "")
    service.more = f"{line}\nGREENAGENT_MAIN_ROLES=web db\nhttp_proxy='http://proxy:$8'\n"
    code, text = service.run("start")
    assert code == 0, text
    pid = service.pid()
    assert Path(f"/proc/{pid}/cmdline").read_text().split("\0")[4:-3] == arguments
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    assert {"GREENAGENT_MAIN_ROLES=web db", "http_proxy=http://proxy:$8"} <= set(variables)
    assert service.run("stop")[0] == 0


@pytest.mark.parametrize(
    "line",
    [
        "export GREENAGENT_MAIN_NID=77",
        "GREENAGENT_MAIN_NID = 7",
        "GREENAGENT_MAIN_NID= 7",
        "GREENAGENT_MAIN_NID=7 # mine",
        "OPTIONS=\"--roles 'web east,db'\"",
        "CONFIG=$HOME/agent.toml",
        'CONFIG="`pwd`/agent.toml"',
        "OPTIONS=--roles a \\\n b",
        "NID=7; export NID",
        "if [ -e /etc/x ]; then",
        "7=8",
        "STOP_TIMEOUT=1m",
        "STOP_TIMEOUT=08",
        "PIDFILE=~/agent.pid",
        "CONFIG=",
        "# a comment \\",
        'OPTIONS="',
    ],
)
def test_a_line_that_systemd_would_take_for_something_else_is_refused(service: Service, line: str) -> None:
    program(service, "")
    service.more = f"{line}\n"
    number = len(service.defaults) + 1
    for action, code in (("start", 6), ("stop", 6), ("status", 4)):
        assert service.run(action)[0] == code
        assert f"{service.folder}/defaults: line {number}" in service.run(action)[1]
    assert not service.pid_file.exists()


@pytest.mark.parametrize("content", ["", "none\n", "99999999999\n", "-1\n", "0\n"])
def test_a_damaged_pid_file_counts_as_stale(service: Service, content: str) -> None:
    program(service, "")
    service.pid_file.parent.mkdir()
    service.pid_file.write_text(content)
    assert service.run("status")[0] == 1
    assert service.run("stop")[0] == 0
    assert not service.pid_file.exists()


def test_a_broken_configuration_starts_nothing_and_stops_nothing(agent: Service) -> None:
    good = agent.configuration.read_text()
    agent.configuration.write_text(good.replace("gid = 1", "gdi = 1"))
    code, text = agent.run("start")
    assert code == 6
    assert "did you mean 'gid'?" in text
    assert not agent.pid_file.exists()

    agent.configuration.write_text(good)
    assert agent.run("start")[0] == 0
    pid = agent.pid()
    output = agent.folder / "output" / "agent.out"
    wait_until(lambda: "is ready" in output.read_text(), what="what it says at its start")
    agent.configuration.write_text(good.replace("nid = 1", "nid = 0"))
    code, text = agent.run("restart")
    assert code == 6
    assert "nid: must be at least 1, not 0" in text
    said = output.read_text()
    code, text = agent.run("reload")
    assert code == 1
    assert "nid: must be at least 1, not 0" in text
    assert "cannot be used, nothing was changed" in text
    assert "reads its configuration again" not in text
    assert output.read_text() == said
    assert agent.run("status") == (0, f"greenagent: is running (pid {pid})\n")
    assert agent.run("stop")[0] == 0


def test_an_agent_that_ends_at_once_is_reported_with_its_last_lines(agent: Service) -> None:
    assert agent.run("start")[0] == 0
    first = agent.pid_file
    agent.defaults["PIDFILE"] = str(agent.folder / "run" / "second.pid")
    code, text = agent.run("start")
    assert code == 1
    assert "ended before it was ready" in text
    assert re.search(r"in use by process \d+", text), text
    assert not agent.pid_file.exists()
    pid = int(first.read_text())
    code, text = agent.run("stop")
    assert (code, running(pid)) == (1, True)
    assert (
        text == f"greenagent: is not running, but process {pid} has its files: it is left alone, kill {pid} ends it\n"
    )
    good = agent.configuration.read_text()
    agent.configuration.write_text("[main]")
    code, text = agent.run("stop")
    assert code == 1
    assert f"cannot know whether it is running: there is no {agent.pid_file}" in text
    agent.configuration.write_text(good)
    agent.defaults["PIDFILE"] = str(first)
    assert agent.run("stop")[0] == 0


def test_what_is_not_there(agent: Service) -> None:
    agent.configuration.unlink()
    code, text = agent.run("start")
    assert code == 6
    assert "there is no configuration" in text
    agent.configuration.write_text("")
    agent.defaults["USER"] = "nobody-of-this-name"
    code, text = agent.run("start")
    assert code == 6
    assert "there is no user nobody-of-this-name" in text
    agent.defaults["DAEMON"] = str(agent.folder / "missing")
    code, text = agent.run("start")
    assert code == 5
    assert "is not installed" in text


PROGRAM = """#!/bin/sh
# Behaves like the agent towards the script; any user can run it, wherever Python may live.
pid_file=
while [ $# -gt 0 ]; do
    case $1 in
        --check) exit 0 ;;
        --show-pid) exit 3 ;;
        --status) exit 0 ;;
        --pid-file) pid_file=$2; shift ;;
    esac
    shift
done
echo "home $HOME"
IGNORE
echo $$ >"$pid_file"
while :; do sleep 0.05; done
"""


def program(service: Service, ignore: str) -> None:
    path = Path(service.defaults["DAEMON"])
    path.write_text(PROGRAM.replace("IGNORE", ignore))
    path.chmod(0o755)


@pytest.mark.parametrize("means", ["setpriv", "su"])
def test_another_user(service: Service, means: str) -> None:
    if means == "su":
        text = service.script.read_text()
        service.script.write_text(text.replace("if setpriv ", "if false "))
    program(service, "sleep 0.5")  # as long as the real agent takes
    service.defaults["USER"] = "daemon"
    code, text = service.run("start")
    assert code == 0, text
    pid = service.pid()
    status = Path(f"/proc/{pid}/status").read_text()
    user = service.folder / "state"
    assert user.owner() == "daemon"
    uid = user.stat().st_uid
    assert re.search(rf"^Uid:\t{uid}\t{uid}\t{uid}\t{uid}$", status, re.MULTILINE), status
    assert f"home {user}" in Path(service.defaults["OUTPUT"]).read_text()
    assert service.run("stop") == (0, "greenagent: stopped\n")
    assert not running(pid)


def test_an_agent_that_does_not_end_is_asked_twice_and_then_killed(service: Service) -> None:
    service.defaults["STOP_TIMEOUT"] = "1"
    service.script.write_text(service.script.read_text().replace('gone_within "$1" 10', 'gone_within "$1" 1'))
    program(service, "trap '' TERM")
    assert service.run("start")[0] == 0
    pid = service.pid()
    code, text = service.run("stop")
    assert code == 0
    assert "is told to wait no longer" in text
    assert "is killed" in text
    assert not running(pid)
    assert not service.pid_file.exists()


def test_an_agent_that_is_never_ready_is_ended(service: Service) -> None:
    service.defaults["START_TIMEOUT"] = "1"
    loading = service.folder / "state" / "loading"
    # Time passes once the program has said something, however late it is started.
    clock = f'now() {{\n    [ -e {loading} ] || set -- --date=@0\n    date "$@" +%s\n}}'
    text = service.script.read_text()
    assert "now() {\n    date +%s\n}" in text
    service.script.write_text(text.replace("now() {\n    date +%s\n}", clock))
    program(service, "echo $$ >pid; echo still loading; : >loading; while :; do sleep 0.05; done")
    code, text = service.run("start")
    assert code == 1
    assert "was not ready after 1 s" in text
    assert "still loading" in text
    pid = int((service.folder / "state" / "pid").read_text())
    assert not running(pid)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_defaults_that_are_no_file_are_refused_and_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    defaults = tmp_path / "defaults"
    make(defaults)
    done = subprocess.run(
        ["/bin/sh", str(INIT_SCRIPT), "status"],
        env={**os.environ, "DEFAULTS": str(defaults)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (4, f"greenagent: {defaults}: is no file\n")
