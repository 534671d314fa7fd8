"""Answers of many megabytes: others get their turn while they are made and written."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from greenagent.controller.dispatch.agents import Poll
from greenagent.controller.limits import MIB
from greenagent.controller.model import AgentKey
from greenagent.controller.state.log_lines import Record
from greenagent.controller.state.metrics import Point
from greenagent.controller.state.open_texts import Shown
from tests.support.calibration import takes_at_most
from tests.support.holds import HELD, longest_hold
from tests.support.local_controller import Agent, LocalController, start
from tests.support.memory import resident


def statistics(controller: LocalController) -> None:
    for nid in range(1, 16):
        points = [Point("é" * 100 + str(number), 1, float(number)) for number in range(7000)]
        controller.services.metrics.take(AgentKey(1, nid), points)


def agents_with_roles(controller: LocalController) -> None:
    table = controller.services.agents
    for nid in range(1, 3000):
        table.poll_ended(table.poll_began(Poll(AgentKey(1, nid), tuple("é" * 100 + str(n) for n in range(40)))))


def results(controller: LocalController) -> None:
    agent = Agent(controller)
    start(controller, agent)
    agent.finish("j", data="\x01" * 6 * MIB)


def fan_out(controller: LocalController) -> None:
    """Also in the list of jobs."""
    table, jobs = controller.services.agents, controller.services.jobs
    polls = [table.poll_began(Poll(AgentKey(1, nid), ("web",))) for nid in range(1, 5000)]
    for number in range(20):
        controller.submit(id="j" if not number else f"j{number}", roles=["web", "*"], fanout=True)
    assert len(jobs.get("j").assignments) == len(polls)


def many_jobs(controller: LocalController) -> None:
    for number in range(100):
        roles = ["\U0001f600" * 4000] * 10
        controller.submit(id=f"j{number}", gid=1, roles=roles, wait_for_agent=60)


def lines(controller: LocalController) -> None:
    records = [Record(1, "j", "", "", 1, 1, "\x01" * 16 * MIB)]
    controller.services.lines.take(AgentKey(1, 10), records, lambda jobid: True)


def open_text(controller: LocalController) -> None:
    agent = Agent(controller)
    start(controller, agent)
    shown = [Shown("j", stream, Record(0, "j", "", "", 1, 1, "\x01" * 7 * MIB)) for stream in (1, 2)]
    controller.services.open_texts.take(AgentKey(1, 10), shown, lambda jobid: True)


LARGE: dict[str, tuple[str, Callable[[LocalController], Any], int]] = {
    "statistics": ("stats", statistics, 60 * MIB),
    "agents with roles": ("agents", agents_with_roles, 60 * MIB),
    "a result": ("jobs/j", results, 30 * MIB),
    "a fan-out": ("jobs/j", fan_out, MIB // 2),
    "many fan-outs": ("jobs", fan_out, 4 * MIB),
    "jobs with roles": ("jobs", many_jobs, 40 * MIB),
    "lines": ("jobs/j/logs", lines, 90 * MIB),
    "unfinished output": ("jobs/j/logs?follow=1&wait=1", open_text, 80 * MIB),
}


@pytest.mark.parametrize("kind", LARGE)
def test_no_answer_holds_up_the_others(controller, kind) -> None:
    path, fill, least = LARGE[kind]
    fill(controller)
    host, _, port = controller.url.removeprefix("http://").rpartition(":")
    with longest_hold(controller) as longest, socket.create_connection((host, int(port))) as client:
        client.sendall(f"GET /api/{path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        received = bytearray()
        while piece := client.recv(1 << 16):
            received += piece
            gevent.sleep(0)
    assert takes_at_most(longest[0], HELD)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"application/json" in head
    assert len(body) >= least
    assert json.loads(body)


def test_an_answer_that_is_not_read_takes_no_memory(controller) -> None:
    statistics(controller)
    host, _, port = controller.url.removeprefix("http://").rpartition(":")
    before = resident()
    clients = [socket.create_connection((host, int(port))) for _ in range(4)]
    for client in clients:
        client.sendall(b"GET /api/stats HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    for client in clients:
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert resident() - before < 30 * MIB
    for client in clients:
        client.close()
