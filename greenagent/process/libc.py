"""What the agent needs of the system and its C library, but for starting programs."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys

_FUNCTIONS = (
    "posix_spawn",
    "posix_spawnattr_init",
    "posix_spawnattr_setflags",
    "posix_spawnattr_setsigdefault",
    "posix_spawnattr_setsigmask",
    "posix_spawn_file_actions_init",
    "posix_spawn_file_actions_adddup2",
    "posix_spawn_file_actions_addchdir_np",
    "posix_spawn_file_actions_destroy",
    "sigfillset",
    "sigemptyset",
    "prctl",
)
_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER"""
_RB_AUTOBOOT = 0x01234567

_libc = ctypes.CDLL(None, use_errno=True)


def check_platform() -> str | None:
    """The first thing that is missing here, in one line, or None when everything is there."""
    if not sys.platform.startswith("linux"):
        return f"greenagent runs on Linux only, not on {sys.platform}"
    if sys.version_info < (3, 10):  # noqa: UP036 - the check is for people who start it with an older Python
        return "greenagent needs Python 3.10 or newer"
    if not os.path.exists("/proc/self/stat"):
        return "greenagent needs /proc: mount it"
    missing = _missing_functions()
    if missing:
        return f"the C library lacks {', '.join(missing)}: glibc 2.29 or musl 1.1.24 is needed, or newer"
    if not (hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal") and hasattr(os, "P_PIDFD")):
        return "this Python was built without pidfd: Linux 5.4 or newer is needed"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return "this kernel has no pidfd: Linux 5.4 or newer is needed"
        hint = ": a seccomp filter forbids it, such as that of an old container runtime" * (error.errno == errno.EPERM)
        return f"cannot open a pidfd: {error.strerror}{hint}"
    return None


def _missing_functions() -> list[str]:
    """The functions this C library does not have."""
    return [name for name in _FUNCTIONS if not hasattr(_libc, name)]


def set_subreaper(on: bool) -> None:
    """Makes orphaned descendants children of this process (or not any more). Raises OSError."""
    if _libc.prctl(_SUBREAPER, ctypes.c_ulong(on), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def reboot_machine() -> None:
    """Brings the disks up to date and reboots the machine at once. Raises OSError, as for lack of the right to."""
    os.sync()
    if _libc.reboot(ctypes.c_int(_RB_AUTOBOOT)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
