"""``greenagent-ctl top``: what agents and jobs use, from the statistics the controller received."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from greenagent.cli.ctl_client import Client
from greenagent.cli.ctl_show import print_table


def top(client: Client, options: argparse.Namespace) -> int:
    """Shows it, once or until interrupted."""
    live = sys.stdout.isatty() and not options.once and not options.json
    while True:
        picture = {"agents": client.get("agents")["agents"], "statistics": client.get("stats")["agents"]}
        if options.json:
            print(json.dumps(picture), flush=True)
        else:
            if live:
                print("\x1b[H\x1b[2J", end="")
            _show(picture)
        if options.once or not (live or options.json):
            return 0
        time.sleep(max(0.2, options.interval))


def _show(picture: dict[str, Any]) -> None:
    figures = {(one["gid"], one["nid"]): one["figures"] for one in picture["statistics"]}
    rows = []
    for agent in picture["agents"]:
        own = figures.get((agent["gid"], agent["nid"]), {})
        rows.append((f"{agent['gid']}:{agent['nid']}", "live" if agent["live"] else "away", str(len(own))))
    print_table(("AGENT", "STATE", "FIGURES"), rows)
