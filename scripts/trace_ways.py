"""Counts the modules that a line enters from the pipe to the controller, and a command from the poll to its result.

A real agent runs under a profile hook in every thread, against a real controller. The hook notes each call of a
function of the package with its time; a window of time around one printed line, and around one command, decides
which calls are counted. What serves no job (the watchdog, health, logging of the agent's own remarks) is left out, and
so is all that upkeep on a timer calls (retention, listings of the log folder, what is due of the statistics): it falls
into the window by chance. Both are found by name, in this checkout and in one of 5c6a4df, with which it is compared.

``python scripts/trace_ways.py [--root CHECKOUT] [--show]``
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = re.compile(
    r"watchdog|monitoring|oversight|status|__init__|agent_log|voice|heartbeat|progress|greenlets|notify|health|/cli/"
)
"""Modules that run for every service whatever it does, or beside all of them."""
UPKEEP = (
    r"watchdog\.py:|status\.py:|writer\.py:(_look_around|_try_again)$|collector\.py:(run|flush_due)$|own\.py:run$|"
    r"meter\.py:(run|_run)$|(orphans|descendants)\.py:run$|(spool|ledger)\.py:keep_up$|tls(_watch)?\.py:watch$"
)
"""Functions (``module:name``) that run on a timer; what they call counts as little as they do."""

CONFIGURATION = """
[main]
gid = 1
nid = 10
message_id_file = "{folder}/message-id"
history_file = "{folder}/history"

[controllers.main]
url = "{url}"

[logging.db]
type = "DB"
log_dir = "{folder}/logs"

[logging.ac]
type = "AC"
flush_int = 1
levels = [1, 2]

[stats]
interval = 3600
meter_interval = 3600
"""

HOOK = """
import sys, time, importlib, json, re
calls = []
package = sys.argv.pop(1) + "/greenagent/"
upkeep = re.compile(sys.argv.pop(1)).search
is_upkeep = {}
stamp = time.time
def serves_no_job(frame):
    while frame is not None:
        code = frame.f_code
        found = is_upkeep.get(code)
        if found is None:
            found = code.co_filename.startswith(package) and bool(upkeep(code.co_filename + ":" + code.co_name))
            is_upkeep[code] = found
        if found:
            return True
        frame = frame.f_back
    return False
def hook(frame, event, argument):
    if event == "call":
        name = frame.f_code.co_filename
        if name.startswith(package) and not serves_no_job(frame):
            calls.append((stamp(), name[len(package):], frame.f_code.co_name))
import greenagent.runtime.native as native
for inner in ("_without_signals", "_caught"):
    def hooked(*arguments, function=getattr(native, inner)):
        sys.setprofile(hook)
        return function(*arguments)
    setattr(native, inner, hooked)
module, _, function = sys.argv.pop(1).partition(":")
main = getattr(importlib.import_module(module), function)
out = sys.argv.pop(1)
def write():
    sys.setprofile(None)
    with open(out, "w") as file:
        json.dump(list(calls), file)
sys.setprofile(hook)
try:
    code = main(sys.argv[1:])
finally:
    write()
sys.exit(code)
"""


def entry_point(root: Path, program: str) -> str:
    found = re.search(rf'"{program}=([\w.]+:\w+)"', (root / "setup.py").read_text())
    assert found is not None
    return found[1]


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def wait_for(what: str, condition: Any, timeout: float = 30.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not happen within {timeout:g} s")
        time.sleep(0.01)
    return found


def trace(root: Path, folder: Path) -> tuple[list[tuple[float, str, str]], dict[str, tuple[float, float]]]:
    """All calls in a traced agent, and the windows of one line and one command."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    module, _, function = entry_point(root, "greenagent-controller").partition(":")
    start = f"import sys, {module} as m; sys.exit(m.{function}(sys.argv[1:]))"
    controller = subprocess.Popen(
        [sys.executable, "-c", start, "--listen", "127.0.0.1:0"],
        cwd=folder, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert controller.stdout is not None
    line = controller.stdout.readline()
    url = line[line.index("http") :].split()[0].rstrip(",;")
    (folder / "greenagent.toml").write_text(CONFIGURATION.format(folder=folder, url=url))
    calls = folder / "calls.json"
    agent = subprocess.Popen(
        [sys.executable, "-c", HOOK, str(root), UPKEEP, entry_point(root, "greenagent"), str(calls), "-c",
         str(folder / "greenagent.toml")],
        cwd=folder, env=environment,
    )  # fmt: skip
    try:
        api = f"{url}/api"
        wait_for("a live agent", lambda: [one for one in ask(f"{api}/agents")["agents"] if one["live"]])
        windows = {}
        for _ in range(2):  # the first of each pays for what is loaded late
            began = time.time()
            done = ask(f"{api}/jobs", {"gid": 1, "nid": 10, "cmd": "execute", "args": {"name": "true"}})
            ask(f"{api}/jobs/{done['id']}?wait=30")
            windows["command"] = (began, time.time() + 0.05)
            time.sleep(1)
        script = "read one; echo first; read two; echo printed; read three"
        fifo = folder / "fifo"
        os.mkfifo(fifo)
        talking = ask(
            f"{api}/jobs",
            {"gid": 1, "nid": 10, "cmd": "execute", "args": {"name": "sh", "args": ["-c", f"exec <{fifo}; {script}"]}},
        )["id"]
        with fifo.open("w", buffering=1) as job:
            lines = f"{api}/jobs/{talking}/logs"
            for text in ("first", "printed"):  # the first one pays for the connection
                time.sleep(1.5)
                began = time.time()
                job.write("go\n")
                wait_for("the line", lambda text=text: any(one["data"] == text for one in ask(lines)["lines"]))
                windows["line"] = (began, time.time() + 0.05)
            time.sleep(1)
            job.write("end\n")
            ask(f"{api}/jobs/{talking}?wait=30")
    finally:
        agent.terminate()
        agent.wait(30)
        controller.terminate()
        controller.wait(30)
    return [tuple(call) for call in json.loads(calls.read_text())], windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to trace")
    parser.add_argument(
        "--show", action="store_true", help="name modules and functions in the order of their first call"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        calls, windows = trace(options.root.resolve(), Path(folder))
    for way in ("line", "command"):
        first, last = windows[way]
        entered: dict[str, list[str]] = {}
        for stamp, module, function in calls:
            if first <= stamp <= last and not OUTSIDE.search("/" + module):
                functions = entered.setdefault(module, [])
                if function not in functions:
                    functions.append(function)
        print(f"{way}: {len(entered)} modules, {sum(map(len, entered.values()))} functions")
        if options.show:
            for module, functions in entered.items():
                print(f"  {module}: {', '.join(functions)}")


if __name__ == "__main__":
    main()
