"""The agents of a fleet: those that poll here, and what other processes say of theirs.

Each process keeps what it knows of an agent under its own name, once a second, and at once where others must know it
for their next command: an agent that is new, or has other roles. A process that says nothing more has no open polls.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from typing import Any, Final

import gevent

from greenagent.controller.dispatch.agents import Agent, AgentTable, Poll
from greenagent.controller.fleet.connection import Command, FleetRedis, compact, key_of
from greenagent.controller.fleet.job_reader import DELIVERING, JobReader
from greenagent.controller.limits import Limits
from greenagent.controller.model import AgentKey, Assignment, Target, parse_key
from greenagent.controller.state.state_file import StateError

AGENTS: Final = key_of("agents")
PROCESSES: Final = key_of("processes")
EVERY: Final = 1.0
"""Seconds between two reports of a process."""
DEAD: Final = 15.0
"""Seconds without a report after which a process counts as ended."""
GONE: Final = 60.0
"""Seconds after which what it said is kept without its name."""
CACHED: Final = 1.0
"""Seconds for which what all others said is good enough."""


class FleetAgents(AgentTable):
    """See ``AgentTable``."""

    def __init__(self, redis: FleetRedis, jobs: JobReader, limits: Limits) -> None:
        super().__init__(limits)
        self._redis = redis
        self._jobs = jobs
        self.process = redis.process
        self._changed: set[AgentKey] = set()
        self._cached: tuple[float, dict[AgentKey, Agent]] = (-math.inf, {})

    # -- what others must know

    def poll_began(self, poll: Poll) -> Agent:
        known = self.get(poll.key)
        before = None if known is None or not known.has_polled else (known.roles, known.has_stopped)
        agent = super().poll_began(poll)
        self._changed.add(agent.key)
        agent.deliveries = self._deliveries(agent.key)
        if before != (agent.roles, False):
            self._report()
        return agent

    def poll_ended(self, agent: Agent) -> None:
        super().poll_ended(agent)
        self._changed.add(agent.key)

    def contact(self, key: AgentKey) -> Agent:
        agent = super().contact(key)
        self._changed.add(key)
        return agent

    def stopped(self, key: AgentKey) -> None:
        super().stopped(key)
        self._report()

    def run(self) -> None:
        """Body of a service: says once a second who polls here, and that this process lives."""
        while True:
            try:
                self._report()
            except StateError:
                pass  # whoever hears the news says so
            gevent.sleep(EVERY)

    def _report(self) -> None:
        changed, self._changed = self._changed, set()
        commands: list[Command] = [("ZADD", PROCESSES, time.time(), self.process)]
        for key in changed:
            if (agent := self.get(key)) is not None:
                commands.append(("HSET", AGENTS, f"{key}@{self.process}", self._text_of(agent)))
        try:
            self._redis.pipeline(commands)
        except StateError:
            self._changed |= changed
            raise

    @staticmethod
    def _text_of(agent: Agent) -> str:
        return compact(
            {
                "roles": agent.roles,
                "slots": agent.slots,
                "version": agent.version,
                "contact": agent.last_contact,
                "poll": time.time() - time.monotonic() + agent.last_poll,
                "polls": agent.open_polls,
                "has_polled": agent.has_polled,
                "stopped": agent.has_stopped,
            }
        )

    def leave(self) -> None:
        """This process ends: its polls are over."""
        self._changed.update(agent.key for agent in self.local())
        self._report()
        self._redis.pipeline([("ZREM", PROCESSES, self.process)])

    # -- what others said

    def _elsewhere(self, key: AgentKey | None = None) -> dict[AgentKey, Agent]:
        """What all processes said, this one left out; of all agents, or of one."""
        names = dict(self._redis.run("ZRANGE", PROCESSES, 0, -1, "WITHSCORES"))
        alive = {name for name, said in names.items() if time.time() - said < DEAD}
        if key is None:
            fields = self._redis.run("HGETALL", AGENTS)
        else:
            asked = [f"{key}@{name}" for name in ("", *names)]
            texts = self._redis.run("HMGET", AGENTS, *asked)
            fields = {name: text for name, text in zip(asked, texts, strict=True) if text is not None}
        found: dict[AgentKey, Agent] = {}
        for field, text in fields.items():
            name, _, process = field.partition("@")
            if process != self.process:
                agent = _agent_of(parse_key(name), json.loads(text), process in alive)
                found[agent.key] = _newer(found.get(agent.key), agent)
        return found

    def _all_elsewhere(self) -> dict[AgentKey, Agent]:
        if time.monotonic() - self._cached[0] > CACHED:
            self._cached = (time.monotonic(), self._elsewhere())
        return self._cached[1]

    def live(self, whom: AgentKey | Target) -> list[Agent]:
        if isinstance(whom, Target) and whom.fanout:
            self._cached = (-math.inf, {})  # it is for all, also those that have just come
        if (found := super().live(whom)) or not isinstance(whom, Target):
            return found
        self._cached = (-math.inf, {})
        return super().live(whom)

    def find(self, key: AgentKey) -> Agent | None:
        here = self.get(key)
        if here is not None and here.open_polls:
            return here
        elsewhere = self._elsewhere(key).get(key)
        return elsewhere if here is None else here if elsewhere is None else _newer(here, elsewhere)

    def all(self) -> list[Agent]:
        found = {agent.key: agent for agent in self.local()}
        for key, agent in self._all_elsewhere().items():
            found[key] = _newer(found.get(key), agent)
        return list(found.values())

    def with_deliveries(self) -> Iterable[Agent]:
        for name in self._redis.run("SMEMBERS", DELIVERING):
            key = parse_key(name)
            deliveries = self._deliveries(key)
            if not deliveries:
                gone, left = self._redis.pipeline([("SREM", DELIVERING, name), ("HLEN", key_of("deliveries", key))])
                if gone and left:
                    self._redis.pipeline([("SADD", DELIVERING, name)])  # something was delivered just then
                continue
            agent = self.find(key) or Agent(key, last_poll=self.started)
            if agent.open_polls:
                continue
            agent.deliveries = deliveries
            yield agent

    def _deliveries(self, key: AgentKey) -> dict[str, list[Assignment]]:
        members = self._redis.run("HGETALL", key_of("deliveries", key))
        if not members:
            return {}
        found: dict[str, list[Assignment]] = {}
        for one in sorted(self._jobs.assignments(list(members)), key=lambda one: one.job.seq):
            if one.token and one.agent == key:
                found.setdefault(one.token, []).append(one)
        return dict(sorted(found.items(), key=lambda item: item[1][0].delivered))

    def tidy(self) -> None:
        """What ended processes said is kept once, without their names."""
        names = dict(self._redis.run("ZRANGE", PROCESSES, 0, -1, "WITHSCORES"))
        gone = {name for name, said in names.items() if time.time() - said > GONE}
        if not gone:
            return
        fields = self._redis.run("HGETALL", AGENTS)
        commands: list[Command] = []
        for field, text in fields.items():
            name, _, process = field.partition("@")
            if process in gone:
                commands += [("HSETNX", AGENTS, f"{name}@", text), ("HDEL", AGENTS, field)]
        self._redis.pipeline([*commands, ("ZREM", PROCESSES, *gone)])


def _agent_of(key: AgentKey, said: dict[str, Any], is_alive: bool) -> Agent:
    last_poll = said["poll"] - time.time() + time.monotonic()
    if said["polls"] and not is_alive:
        last_poll = max(last_poll, said["contact"] - time.time() + time.monotonic())
    return Agent(
        key,
        tuple(said["roles"]),
        said["slots"],
        said["version"],
        said["contact"],
        last_poll,
        said["has_polled"],
        said["polls"] if is_alive else 0,
        has_stopped=said["stopped"],
    )


def _newer(one: Agent | None, other: Agent) -> Agent:
    if one is None:
        return other
    return max(one, other, key=lambda agent: (agent.open_polls > 0, agent.last_contact))
