"""Checks of startup tasks: their ids and arguments are understood, their conditions can come true."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from greenagent.settings.models import ExtensionSettings, StartupTask
from greenagent.settings.problems import Report, nearest
from greenagent.values.arguments import KNOWN_ARGUMENTS
from greenagent.values.command import parse_command
from greenagent.values.errors import CommandError

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


def check_startup(tasks: Iterable[StartupTask], extensions: Mapping[str, ExtensionSettings], report: Report) -> None:
    """Reports what keeps startup tasks from running as written (protocol 11)."""
    known = {task.id: task for task in tasks}
    for task in known.values():
        _check_command(task, extensions, report)
        for other in task.after:
            if other == task.id:
                report.problem(("startup", task.id, "after"), "names the task itself")
            elif other not in known:
                report.problem(
                    ("startup", task.id, "after"), f"there is no startup task '{other}'{nearest(other, known)}"
                )
    for cycle in _cycles(known):
        names = " -> ".join([*cycle, cycle[0]])
        report.problem(("startup", cycle[0], "after"), f"these tasks wait for each other: {names}")


def _check_command(task: StartupTask, extensions: Mapping[str, ExtensionSettings], report: Report) -> None:
    place = ("startup", task.id)
    try:
        command = parse_command({"id": task.id, "cmd": task.name, "args": task.args, "data": task.data})
    except CommandError as error:
        argument = re.match(r"args\.(\w+):? ", error.reason)
        if argument:
            report.problem((*place, "args", argument.group(1)), error.reason[argument.end() :])
        else:
            report.problem(place, error.reason)
        return
    for warning in command.warnings:
        report.warning((*place, "args"), warning)
    known = set(KNOWN_ARGUMENTS)
    if task.name in extensions:
        for argument_text in extensions[task.name].args:
            known.update(_PLACEHOLDER.findall(argument_text))
    for key in task.args:
        if key not in known:
            report.warning((*place, "args", key), f"is not a known run argument and is kept{nearest(key, known)}")


def _cycles(tasks: Mapping[str, StartupTask]) -> list[list[str]]:
    """Each circle of tasks that wait for each other, once."""
    cycles: list[list[str]] = []
    done: set[str] = set()
    for start in tasks:
        trail: list[str] = []
        stack = [(start, 0)]
        while stack:
            name, index = stack.pop()
            if index == 0:
                trail.append(name)
            followers = [other for other in tasks[name].after if other in tasks and other != name]
            if index == len(followers):
                done.add(trail.pop())
                continue
            stack.append((name, index + 1))
            other = followers[index]
            if other in trail:
                cycles.append(trail[trail.index(other) :])
            elif other not in done:
                stack.append((other, 0))
        # A start already done walks its followers at most once more, which finds nothing new.
    return cycles
