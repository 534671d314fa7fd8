"""``greenagent-ctl``: talks to a controller's ``/api``."""

from __future__ import annotations

import sys
from typing import Final

from greenagent.cli.streams import open_missing_streams

EXIT_INTERRUPTED: Final = 130


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    open_missing_streams()
    try:
        # Loaded here, since it takes a while, in which Ctrl-C must not end in a traceback.
        from greenagent.cli.ctl_main import run_command

        return run_command(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
