"""``greenagent-ctl``: talks to a controller's ``/api``. This module alone is loaded before Ctrl-C is dealt with."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    try:
        # Loaded here, since it takes a while, in which Ctrl-C must not end in a traceback.
        from greenagent.cli.common import open_missing_streams

        open_missing_streams()
        from greenagent.cli.ctl.main import run_command

        return run_command(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
