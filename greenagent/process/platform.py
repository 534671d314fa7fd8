"""What the agent needs of the system, checked at start."""

from __future__ import annotations

import errno
import os
import signal
import sys

from greenagent.process import libc


def check_platform() -> str | None:
    """The first thing that is missing here, in one line, or None when everything is there."""
    if not sys.platform.startswith("linux"):
        return f"greenagent runs on Linux only, not on {sys.platform}"
    if sys.version_info < (3, 10):  # noqa: UP036 - the check is for people who start it with an older Python
        return "greenagent needs Python 3.10 or newer"
    if not os.path.exists("/proc/self/stat"):
        return "greenagent needs /proc: mount it"
    missing = libc.missing_functions()
    if missing:
        return f"the C library lacks {', '.join(missing)}: glibc 2.29 or musl 1.1.24 is needed, or newer"
    if not (hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal") and hasattr(os, "P_PIDFD")):
        return "this Python was built without pidfd: Linux 5.4 or newer is needed"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return "this kernel has no pidfd: Linux 5.4 or newer is needed"
        return f"cannot open a pidfd: {error.strerror}"
    return None
