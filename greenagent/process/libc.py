"""posix_spawn of the C library, called with the interpreter lock released, and what else the agent needs of the system.

``os.posix_spawn`` keeps the lock until the child has exec'd, knows no directory and passes on the
signals Python ignores; ``ctypes`` through ``CDLL`` does not (design, section 3).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Sequence

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
_SETSIGDEF = 0x04
_SETSIGMASK = 0x08
_SETSID = 0x80
_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER"""

_Opaque = ctypes.c_ulonglong * 64
"""512 bytes: more than posix_spawnattr_t, the file actions and sigset_t need in glibc (336, 80, 128) and musl."""

_libc = ctypes.CDLL(None, use_errno=True)
_RB_AUTOBOOT = 0x01234567


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
        return f"cannot open a pidfd: {error.strerror}"
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


class Launcher:
    """Starts programs: each in a session of its own, no signal blocked, none ignored."""

    def __init__(self) -> None:
        """Raises OSError where the attributes cannot be made."""
        self._attributes = _Opaque()
        every, none = _Opaque(), _Opaque()
        _libc.sigfillset(ctypes.byref(every))
        _libc.sigemptyset(ctypes.byref(none))
        attributes = ctypes.byref(self._attributes)
        _check(_libc.posix_spawnattr_init(attributes))
        _check(_libc.posix_spawnattr_setflags(attributes, ctypes.c_short(_SETSIGDEF | _SETSIGMASK | _SETSID)))
        _check(_libc.posix_spawnattr_setsigdefault(attributes, ctypes.byref(every)))
        _check(_libc.posix_spawnattr_setsigmask(attributes, ctypes.byref(none)))

    def launch(
        self,
        path: bytes,
        arguments: Sequence[bytes],
        environment: Sequence[bytes],
        directory: bytes | None,
        descriptors: tuple[int, int, int],
    ) -> int:
        """Returns the pid once the program has replaced the child; may block as long as that takes.

        ``arguments`` include the program's own name. ``descriptors`` become 0, 1 and 2 of the child
        and must be above 2, so that none is overwritten before it is copied, and that the copy loses
        close-on-exec. Raises OSError with the number of what failed (chdir and exec alike).
        """
        actions = _Opaque()
        actions_reference = ctypes.byref(actions)
        _check(_libc.posix_spawn_file_actions_init(actions_reference))
        try:
            if directory is not None:
                _check(_libc.posix_spawn_file_actions_addchdir_np(actions_reference, directory))
            for target, descriptor in enumerate(descriptors):
                _check(_libc.posix_spawn_file_actions_adddup2(actions_reference, descriptor, target))
            pid = ctypes.c_int()
            _check(
                _libc.posix_spawn(
                    ctypes.byref(pid),
                    path,
                    actions_reference,
                    ctypes.byref(self._attributes),
                    _strings(arguments),
                    _strings(environment),
                )
            )
            return pid.value
        finally:
            _libc.posix_spawn_file_actions_destroy(actions_reference)


def _strings(values: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(values) + 1))(*values, None)


def _check(number: int) -> None:
    if number != 0:
        raise OSError(number, os.strerror(number))
