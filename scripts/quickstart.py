"""What scripts/quickstart does once everything is installed: a controller, an agent, real jobs."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
CHATTY_LINES = 100_000
STATISTICS_INTERVAL = 3
"""Seconds: the controller shows only the last interval's figures, so they are asked for more often than this."""

CONFIGURATION = """
[main]
gid = 1
nid = 10
max_jobs = 10
message_id_file = "{folder}/message-id"
history_file = "{folder}/history"
roles = ["demo"]

[controllers.main]
url = "{url}"

[extensions.greet]
binary = "sh"
args = ["-c", "echo hello {{who}}"]

[logging.db]
type = "DB"
log_dir = "{folder}/logs"
levels = []

[logging.ac]
type = "AC"
flush_int = 2
batch_size = 1000

[stats]
interval = {interval}
"""

JOBS: list[tuple[str, list[str]]] = [
    ("a chatty job", ["--", "sh", "-c", f"seq 1 {CHATTY_LINES}; echo 10::lines.printed:{CHATTY_LINES}'|'c"]),
    ("an echo", ["--", "echo", "hello from a job"]),
    ("an extension", ["--cmd", "greet", "--args-json", '{"who": "world"}']),
    ("a failing job", ["--", "sh", "-c", "echo this goes wrong >&2; exit 3"]),
    ("a JSON result", ["--", "sh", "-c", "echo '20::{\"answer\": 42}'"]),
    ("a timeout", ["--max-time", "1", "--", "sleep", "60"]),
]


class Demo:
    """One controller and one agent in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        self.url = ""
        self.figures: dict[str, float] = {}
        """The largest value seen of each statistics key: the jobs take longer than one interval."""
        self.changed = threading.Condition()
        """Tells of figures that have come; guards ``figures``."""
        self.stopping = threading.Event()

    def start(self) -> None:
        controller = self._popen([BIN / "greenagent-controller", "--listen", "127.0.0.1:0"], "controller.log", True)
        assert controller.stdout is not None
        line = controller.stdout.readline()
        if "http" not in line:
            sys.exit(f"the controller did not start:\n{(self.folder / 'controller.log').read_text()}")
        self.url = line[line.index("http") :].strip()
        (self.folder / "greenagent.toml").write_text(
            CONFIGURATION.format(folder=self.folder, url=self.url, interval=STATISTICS_INTERVAL)
        )
        pid_file = self.folder / "pid"
        agent = self._popen(
            [BIN / "greenagent", "-c", self.folder / "greenagent.toml", "--pid-file", pid_file], "agent.log", False
        )
        while not pid_file.exists():
            if agent.poll() is not None:
                sys.exit(f"the agent did not start:\n{(self.folder / 'agent.log').read_text()}")
            time.sleep(0.05)
        threading.Thread(target=self._collect, daemon=True).start()

    def run(self, job_id: str, words: list[str]) -> subprocess.CompletedProcess[str]:
        """Runs one job through greenagent-ctl, as a user would."""
        where = ["run", "--gid", "1", "--nid", "10", "--id", job_id, "--wait-for-agent", "60", "--domain", "quickstart"]
        return subprocess.run(
            [BIN / "greenagent-ctl", "--url", self.url, *where, *words],
            capture_output=True,
            text=True,
            check=False,
        )

    def api(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/{path}", timeout=30) as answer:
            return json.load(answer)

    def result(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api(f"jobs/{job_id}?wait=10")["results"][0]
        return found

    def logs(self, *words: str) -> str:
        return subprocess.run(
            [BIN / "greenagent-logs", "--dir", self.folder / "logs", *words],
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    def stop(self) -> None:
        self.stopping.set()
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in reversed(self.started):
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()

    def _collect(self) -> None:
        """Asks for statistics all the while: an interval's figures are gone with the next."""
        while not self.stopping.wait(STATISTICS_INTERVAL / 10):
            try:
                agents = self.api("stats")["agents"]
            except (OSError, HTTPException, ValueError):
                continue  # stopped just now
            with self.changed:
                for agent in agents:
                    for key, point in agent["figures"].items():
                        self.figures[key] = max(self.figures.get(key, 0.0), point["value"])
                self.changed.notify_all()

    def _popen(self, words: list[Any], log: str, piped: bool) -> subprocess.Popen[str]:
        output = (self.folder / log).open("a")
        process = subprocess.Popen(
            [str(word) for word in words],
            stdout=subprocess.PIPE if piped else output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process


def section(title: str) -> None:
    print(f"\n== {title}", flush=True)


def table(rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def demonstrate(demo: Demo) -> None:
    section("a running job, live")
    print("  $ greenagent-ctl run --gid 1 --nid 10 -- sh -c 'for i in 1 2 3; do echo step $i; sleep 1; done'")
    words = ["run", "--gid", "1", "--nid", "10", "--id", "live", "--wait-for-agent", "60", "--"]
    live = subprocess.Popen(
        [
            BIN / "greenagent-ctl",
            "--url",
            demo.url,
            *words,
            "sh",
            "-c",
            "for i in 1 2 3; do echo step $i; sleep 1; done",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert live.stdout is not None
    began = time.monotonic()
    for line in live.stdout:
        print(f"  {time.monotonic() - began:4.1f} s  {line}", end="", flush=True)
    live.wait()

    section("what ran")
    rows = [["what", "id", "state", "exit code", "seconds", "result"]]
    for number, (title, more) in enumerate(JOBS, 1):
        job_id = f"demo{number}"
        demo.run(job_id, more)
        result = demo.result(job_id)
        shown = result["data"]
        if title == "a chatty job":
            count = demo.logs("--job", job_id, "--level", "1", "--limit", str(CHATTY_LINES + 1), "--json").count("\n")
            shown = f"{count} lines in the log database"
        code = result.get("exit_code")
        rows.append(
            [title, job_id, result["state"], "" if code is None else str(code), f"{result['time'] / 1000:.2f}", shown]
        )
    table(rows)

    section("the last log lines (greenagent-logs --limit 8)")
    print("".join(f"  {line}\n" for line in demo.logs("--limit", "8").splitlines()), end="")

    section("statistics the agent has sent")
    show_statistics(demo)


def show_statistics(demo: Demo) -> None:
    """Waits until what the first job counted has come and shows what the jobs of each name used and counted."""
    with demo.changed:
        demo.changed.wait_for(lambda: any("lines.printed" in key for key in demo.figures), timeout=60)
        figures = dict(demo.figures)
    jobs: dict[str, dict[str, float]] = {}
    for key, value in figures.items():
        domain, name, figure = key.split(".", 4)[2:]
        if domain == "quickstart":
            jobs.setdefault(name, {})[figure] = value
    rows = [["jobs named", "lines", "memory", "their own figures"]]
    for name, found in sorted(jobs.items()):
        own = ", ".join(f"{key} = {value:g}" for key, value in found.items() if key == "lines.printed")
        rows.append([name or "(none)", f"{found.get('lines', 0):.0f}", f"{found.get('rss', 0) / 1024:.0f} KiB", own])
    table(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/quickstart", description="Shows greenagent at work on this machine.")
    parser.add_argument("--keep", action="store_true", help="leave agent and controller running")
    options = parser.parse_args()
    demo = Demo(Path(tempfile.mkdtemp(prefix="greenagent-quickstart-")))
    print(f"everything of this demonstration is in {demo.folder}")
    try:
        demo.start()
        demonstrate(demo)
    except BaseException:
        demo.stop()
        raise
    section("how to go on")
    if options.keep:
        pids = " ".join(str(process.pid) for process in demo.started)
        print(f"  controller and agent are running; end them with: kill {pids}; rm -r {demo.folder}")
        print(f"  run a job:      {BIN}/greenagent-ctl --url {demo.url} run --gid 1 --nid 10 -- uname -a")
        print(f"  see the agents: {BIN}/greenagent-ctl --url {demo.url} agents")
        print(f"  read the logs:  {BIN}/greenagent-logs --dir {demo.folder}/logs --follow")
    else:
        demo.stop()
        print(f"  everything is stopped again; the logs stay in {demo.folder} until you delete it")
        print("  scripts/quickstart --keep leaves agent and controller running to play with")
        print("  a configuration to start from: etc/greenagent.toml; every setting: docs/configuration.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
