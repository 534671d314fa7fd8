"""``greenagent-ctl``: talks to a controller's ``/api``."""

from __future__ import annotations

from greenagent.cli.early import end_at_interrupt

end_at_interrupt()

import sys  # noqa: E402

from greenagent.cli.common import open_missing_streams  # noqa: E402
from greenagent.cli.ctl.main import run_command  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    open_missing_streams()
    return run_command(sys.argv[1:] if arguments is None else list(arguments))


if __name__ == "__main__":
    sys.exit(main())
