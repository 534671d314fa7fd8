"""Checks across settings: whether startup tasks can run, logs have marks enough, and the system allows it all."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Final

from greenagent.settings.models import Settings, StartupTask
from greenagent.settings.problems import Report, nearest
from greenagent.values.arguments import KNOWN_ARGUMENTS
from greenagent.values.command import parse_command
from greenagent.values.errors import CommandError

MAX_PAIRS: Final = 62
"""Pairs of an AC logger with one of its controllers: a line has a mark (one bit of 62) for each."""
DESCRIPTORS_PER_JOB: Final = 5
"""Pipes for stdin, stdout and stderr, the pidfd, and one to spare."""
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


def check_pairs(settings: Settings, report: Report) -> None:
    """More pairs than there are marks are one problem, at the first logger that is one too many."""
    total = 0
    for logger in settings.controller_loggers:
        before, total = total, total + len(logger.controllers)
        if before <= MAX_PAIRS < total:
            pairs = sum(len(each.controllers) for each in settings.controller_loggers)
            text = (
                f"there are {pairs} pairs of an AC logger and one of its controllers, "
                f"no more than {MAX_PAIRS} are possible: name fewer controllers"
            )
            report.problem(("logging", logger.name, "controllers"), text)


def check_limits(settings: Settings) -> tuple[str, ...]:
    """Warnings, one line each, for ``--check``: ``max_jobs`` against the limit of open files.

    The agent never changes that limit, since its children would inherit it (design, section 3).
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.main.max_jobs * DESCRIPTORS_PER_JOB
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return ()
    return (
        f"{settings.path}: [main] max_jobs: {settings.main.max_jobs} jobs may need {needed} open files, "
        f"the limit is {soft}: raise it (ulimit -n, LimitNOFILE=) or lower max_jobs",
    )


def check_startup(settings: Settings, report: Report) -> None:
    """Reports what keeps startup tasks from running as written (protocol 11)."""
    tasks = {task.id: task for task in settings.startup}
    for task in settings.startup:
        _check_command(task, settings, report)
        for other in task.after:
            if other == task.id:
                report.problem(("startup", task.id, "after"), "names the task itself")
            elif other not in tasks:
                hint = nearest(other, tasks)
                report.problem(("startup", task.id, "after"), f"there is no startup task '{other}'{hint}")
    for circle in _circles(tasks):
        names = " -> ".join([*circle, circle[0]])
        report.problem(("startup", circle[0], "after"), f"these tasks wait for each other: {names}")


def _check_command(task: StartupTask, settings: Settings, report: Report) -> None:
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
    extension = settings.extensions.get(task.name)
    texts = extension.args if extension is not None else ()
    known = {*KNOWN_ARGUMENTS, *(name for text in texts for name in _PLACEHOLDER.findall(text))}
    for key in task.args:
        if key not in known:
            report.warning((*place, "args", key), f"is not a known run argument and is kept{nearest(key, known)}")


def _circles(tasks: Mapping[str, StartupTask]) -> Iterator[list[str]]:
    """Circles of tasks that wait for each other, each beginning with the one that the file names first."""
    waits = {key: [other for other in task.after if other in tasks and other != key] for key, task in tasks.items()}
    while True:
        try:
            TopologicalSorter(waits).prepare()
        except CycleError as error:
            circle: list[str] = error.args[1][:0:-1]  # [c, b, a, c] means that b waits for c
            start = circle.index(min(circle, key=list(tasks).index))
            circle = circle[start:] + circle[:start]
            yield circle
            waits[circle[0]].remove([*circle, circle[0]][1])  # so that the next circle is found
        else:
            return
