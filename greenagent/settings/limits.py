"""Whether the system allows what the settings ask for."""

from __future__ import annotations

import resource

from greenagent.settings.models import Settings

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
