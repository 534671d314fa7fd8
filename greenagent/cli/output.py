"""Output that may end early or fail: ``| head`` and a full disk end a command in one clear way."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any


def end_with_reader() -> None:
    """A reader that goes away (``| head``) ends this process silently, by SIGPIPE, as other tools end."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def give_up_output(name: str, error: OSError) -> int:
    """Says that the output cannot be written and forgets what is left of it; the exit code, 1."""
    print(f"{name}: cannot write the output: {error.strerror or error}", file=sys.stderr)
    # What failed is still in the buffer: the interpreter would try it again at its end, and complain.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return 1


def write_output(name: str, text: str) -> int:
    """Writes all of a text to stdout; the exit code: 0, or 1 with one line on stderr."""
    try:
        if sys.stdout is None:
            raise OSError("stdout is closed")
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        return give_up_output(name, error)
    return 0


def is_text(*arguments: str) -> bool:
    """False when an argument holds bytes that are no UTF-8: nothing that is looked for or sent can."""
    return not any("\ud800" <= character <= "\udfff" for argument in arguments for character in argument)


class OutputParser(argparse.ArgumentParser):
    """Help and version that cannot be written end in one line and exit code 1, as all other output does."""

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse swallows the error of an unbuffered stdout, and leaves a buffered one to the interpreter's end.
        if file is not sys.stdout:  # which is None where it is closed, and so is the file then
            super()._print_message(message, file)
        elif write_output(self.prog.split()[0], message):
            self.exit(1)
