"""Original agents as they behave on the wire: the generations S (first), L (later) and P (last) of the protocol.

They run real programs. Beside the differences that the protocol names, what they do is made no better than it was.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from typing import Any

import gevent
from gevent.event import Event
from gevent.os import make_nonblocking, nb_read

from greenagent.values.levels import parse_levels
from tests.support.local_controller import ORIGINAL, Agent, LocalController, plain
from tests.support.waiting import wait_until

VALID = (*range(1, 12), 20, 21, 22, 23, 30)
RESULTS = (20, 21, 22, 23, 30)
PATIENCE = 60.0
"""Seconds until they give up a request (protocol 1.3)."""
TICK = 0.05
"""Their patience is counted in steps of so many seconds."""
BATCH_DELAY = 0.05
"""Seconds until a line of the later generations is in their database: it is written behind their back."""


class OriginalAgent:
    """One of them, until ``stop``.

    ``commands`` has what it took. ``is_full``: it has as many jobs as it may, so it begins none. ``broken``: its log
    takes no more lines, as only that of the first generation can come to be.
    """

    def __init__(
        self,
        controller: LocalController,
        generation: str = "L",
        kept_levels: Iterable[int] | None = (),
        gid: int = 1,
        nid: int = 10,
        patience: float = PATIENCE,
    ) -> None:
        """``kept_levels``: those of its log, () for all; None where it keeps no log. ``patience``: seconds of a poll,
        after which it gives up. Those do not count in which this process stands still, and the controller in it, or
        where the controller keeps its state.
        """
        self.agent = Agent(controller, gid, nid, user_agent=ORIGINAL)
        self.generation = generation
        self.commands: list[dict[str, Any]] = []
        self.given_up = 0
        """Polls that it gave up."""
        self.broken = False
        self.is_full = False
        self._patience = patience
        self._kept = kept_levels
        self._rows: list[dict[str, Any]] = []
        self._has_table = generation != "S"
        self._next = 0
        self._uploads: list[dict[str, Any]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ends: dict[str, Event] = {}
        """Set by a kill: of the job, or of its run (first generation)."""
        self._greenlets = [gevent.spawn(self._poll)]
        wait_until(lambda: controller.live() >= {f"{gid}:{nid}"}, what="the original agent to poll")

    def stop(self) -> None:
        gevent.killall(self._greenlets)
        for process in self._processes:
            process.kill()

    @property
    def is_first(self) -> bool:
        return self.generation == "S"

    def _poll(self) -> None:
        session = plain()
        session.headers.update({"User-Agent": ORIGINAL, "Connection": "close"})
        while True:
            asking = gevent.spawn(lambda: session.get(f"{self.agent.url}/cmd").text)
            try:
                if not self._is_answered(asking):
                    self.given_up += 1
                    session.close()
                    continue
            finally:
                asking.kill()
            if answer := asking.get():
                command = json.loads(answer)
                self.commands.append(command)
                self._greenlets.append(gevent.spawn(self._act, command))

    def _is_answered(self, asking: gevent.Greenlet) -> bool:
        left = self._patience  # for the whole request
        while left > 0 and not asking.ready():
            began = time.monotonic()
            asking.join(min(left, TICK))
            left -= min(time.monotonic() - began, 2 * TICK)
            self.agent.controller.services.scripts.get("")  # returns when the Redis answers, if there is one
        return asking.ready()

    def has_logged(self, text: str) -> bool:
        return any(row["data"] == text for row in self._rows)

    def _act(self, command: dict[str, Any]) -> None:
        if self.is_full:
            return
        act = {
            "execute": self._execute,
            "ping": self._ping,
            "kill": self._kill,
            "restart": lambda command: None,  # it ends without an answer
            **({} if self._kept is None else {"get_msgs": self._get_msgs}),
        }.get(command["cmd"])
        if act is None:
            self._finish(command, "UNKNOWN_CMD", starttime=0)
        else:
            act(command)

    def _finish(self, command: dict[str, Any], state: str, **more: Any) -> None:
        """A result has the arguments as the agent read them (protocol 2.3)."""
        args = dict(command.get("args") or {})
        for name in ("loglevels", "loglevels_db", "loglevels_ac"):
            if isinstance(args.get(name), str):
                args[name] = _expanded(args[name])
        result = {"id": command["id"], **self._identity(command), "cmd": command["cmd"], "args": args, "data": ""}
        result |= {"level": 0, "state": state, "starttime": int(time.time() * 1000), "time": 1}
        if not self.is_first:
            result |= {"tags": command.get("tags") or ""}
        self.agent.post("result", result | more)

    def _identity(self, command: dict[str, Any]) -> dict[str, int]:
        if self.is_first:  # it says what the command said
            return {"gid": command.get("gid") or 0, "nid": command.get("nid") or 0}
        return {"gid": self.agent.gid, "nid": self.agent.nid}

    def _answer(self, command: dict[str, Any], value: Any) -> None:
        """The result of a command that is built in."""
        streams = {} if self.is_first else {"streams": ["", ""]}
        self._finish(command, "SUCCESS", data=json.dumps(value), level=20, **streams)

    def _ping(self, command: dict[str, Any]) -> None:
        self._answer(command, "pong")

    def _kill(self, command: dict[str, Any]) -> None:
        """Whatever it is told, and whether there is such a job: that is a success."""
        job_id = json.loads(command["data"])["id"]
        if job_id in self._ends:
            self._ends[job_id].set()
        if self.is_first:
            self._finish(command, "SUCCESS")
        else:
            self._answer(command, True)

    def _get_msgs(self, command: dict[str, Any]) -> None:
        if self.is_first:
            self._get_msgs_first(command)
            return
        query = json.loads(command["data"])
        if not query.get("jobid"):
            self._finish(command, "ERROR", data='"jobid is required"' if self.generation == "P" else "{}", level=20)
            return
        levels = query["levels"] if query.get("levels") is not None else "*"
        wanted = _expanded(levels) if isinstance(levels, str) else []
        limit = min(query.get("limit") or 0, 1000)
        found = [row for row in self._newest_first() if row["jobid"] == query["jobid"] and row["level"] in wanted]
        names = ("id", "epoch", "level", "data")
        self._answer(command, [{name: row[name] for name in names} for row in found[:limit]])

    def _get_msgs_first(self, command: dict[str, Any]) -> None:
        if not self._has_table:
            self.broken = True  # the file is there now, and it never looks whether it has a table
        query = json.loads(command["data"])
        limit = query.get("limit", 0)
        levels = query.get("levels")
        wanted = _expanded(levels) if isinstance(levels, str) else []
        found = [
            {**row, "epoch": row["epoch"] // 1000}
            for row in self._newest_first()
            if query.get("jobid", "") in ("", row["jobid"]) and (not wanted or row["level"] in wanted)
        ]
        self._finish(command, "SUCCESS", data=json.dumps(found[: limit if 0 < limit < 1000 else 1000]))

    def _newest_first(self) -> list[dict[str, Any]]:
        return sorted(self._rows, key=lambda row: row["id"], reverse=True)

    def _execute(self, command: dict[str, Any]) -> None:
        args = command.get("args") or {}
        period, most, runs = args.get("recurring_period", 0), args.get("max_restart", 0), 0
        end = self._ends[command["id"]] = Event()
        while True:
            state, result, streams = self._run(command, end)
            runs = 0 if end.is_set() and self.is_first else runs + 1
            again = bool(period) or (state not in ("SUCCESS", "TIMEOUT") and runs < most)
            if not self.is_first and (end.is_set() or (again and end.wait(period or 1))):
                state, again = "KILLED", False
            if self.is_first and (not again or state != "SUCCESS" or result):
                self._finish(command, state, **result)
            elif not again:
                self._finish(command, state, **result, **({} if streams is None else {"streams": streams}))
            if not again:
                return
            if self.is_first:
                end = self._ends[command["id"]] = Event()  # a kill between two runs strikes the next one
                gevent.sleep(period or 1)

    def _run(self, command: dict[str, Any], end: Event) -> tuple[str, dict[str, Any], list[str] | None]:
        """State, the result message and the streams of one run."""
        args = command.get("args") or {}
        try:
            process = subprocess.Popen(
                [args["name"], *args.get("args", [])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"HOME": "/"},
            )
        except OSError as error:
            return "ERROR", {"data": str(error), "starttime": 0}, None
        killer = gevent.spawn(lambda: end.wait() and process.kill())
        self._processes.append(process)
        texts: list[list[str]] = [[], []]
        result: dict[str, Any] = {}

        def read(number: int, stream: Any) -> None:
            for text in _lines(stream.fileno()):
                given = re.match(r"(\d+)::(.*)", text)
                level, text = (int(given[1]), given[2]) if given else (number + 1, text)
                if level in RESULTS:
                    result.update(data=text, level=level)
                if level in (1, 2):
                    texts[level - 1].append(f"{text}\n")
                self._log(command, level, text)

        self._uploads.clear()
        gevent.joinall([gevent.spawn(read, 0, process.stdout), gevent.spawn(read, 1, process.stderr)])
        wait_until(lambda: process.poll() is not None, what="the end of the program")
        self.agent.post("log", self._uploads)
        killer.kill()
        state = "SUCCESS" if process.returncode == 0 else "KILLED" if end.is_set() else "ERROR"
        return state, result, ["".join(part[-1000:]) for part in texts]

    def _log(self, command: dict[str, Any], level: int, text: str) -> None:
        self._next += 1
        args = command.get("args") or {}
        epoch = int(time.time() * 1000)
        row = {"id": self._next, "jobid": command["id"], "domain": args.get("domain", ""), "name": args.get("name", "")}
        row |= {"epoch": epoch, "level": level, "data": text}
        kept = _expanded(args["loglevels_db"]) if args.get("loglevels_db") else list(self._kept or ())
        if self._kept is None or (kept and level not in kept):
            return
        if not self.is_first:
            self._greenlets.append(gevent.spawn_later(BATCH_DELAY, self._rows.append, row))
            self._uploads.append({name: row[name] for name in ("epoch", "level", "id", "data")})
            return
        if not self.broken:
            self._has_table = True
            self._rows.append(row)
        uploaded = {"domain": "", "epoch": epoch // 1000}
        self._uploads.append({**{name: row[name] for name in ("name", "level", "id", "data")}, **uploaded})


def _lines(descriptor: int) -> Iterator[str]:
    """The lines of a pipe until its other end is closed."""
    make_nonblocking(descriptor)
    kept = b""
    while part := nb_read(descriptor, 65536):
        *lines, kept = (kept + part).split(b"\n")
        yield from map(bytes.decode, lines)
    if kept:
        yield kept.decode()


def _expanded(levels: str) -> list[int]:
    wanted = parse_levels(levels)
    return [level for level in VALID if wanted is None or level in wanted]
