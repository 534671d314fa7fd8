"""Signals that come while a program loads, which takes a fraction of a second, more on a cold disk.

Each entry point imports this before anything else, and it imports nothing else.
"""

from __future__ import annotations

import signal


def end_at_interrupt() -> None:
    """Ctrl-C ends this process by its signal, as other tools end, and not in a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else our starter has us ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_interrupt() -> None:
    """Ctrl-C raises KeyboardInterrupt again: from here on somebody deals with it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def hold_signals() -> None:
    """Keeps in the kernel what an agent that is ready does not die of, until its handlers stand (``release_signals``).

    SIGTERM ends an agent that is not ready: nothing runs yet.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2))
