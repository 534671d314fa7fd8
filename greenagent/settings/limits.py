"""Whether the system allows what the settings ask for."""

from __future__ import annotations

import resource
from collections.abc import Iterable

from greenagent.settings.models import ControllerLogger, Settings
from greenagent.settings.problems import Report

MAX_PAIRS = 62
"""Pairs of an AC logger with one of its controllers: a line has a mark (one bit of 62) for each."""

DESCRIPTORS_PER_JOB = 5
"""Pipes for stdin, stdout and stderr, the pidfd, and one to spare."""


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


def check_pairs(loggers: Iterable[ControllerLogger], report: Report) -> None:
    """More pairs than there are marks are one problem, at the first logger that is one too many."""
    counts = [(logger.name, len(logger.controllers)) for logger in loggers]
    total = 0
    for name, count in counts:
        total += count
        if total > MAX_PAIRS:
            text = (
                f"there are {sum(count for _, count in counts)} pairs of an AC logger and one of its controllers, "
                f"no more than {MAX_PAIRS} are possible: name fewer controllers"
            )
            report.problem(("logging", name, "controllers"), text)
            return
