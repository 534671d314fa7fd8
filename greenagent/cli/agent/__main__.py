"""``greenagent``: runs the agent in the foreground (design, section 1), or answers a question about it."""

from __future__ import annotations

from greenagent.cli.early import end_at_interrupt, hold_signals

end_at_interrupt()
hold_signals()

import sys  # noqa: E402

from greenagent.cli.agent.options import build_parser  # noqa: E402
from greenagent.cli.common import end_with_reader, open_missing_streams  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Runs the agent; the exit code: 0 ended as asked, 1 refused to start or gave up, 2 bad arguments.

    The agent is imported only to run: it takes several times as long to load as an answer.
    """
    open_missing_streams()
    options = build_parser().parse_args(arguments)
    if options.check or options.print_config or options.status or options.show_pid:
        end_with_reader()
        from greenagent.cli.agent.questions import answer

        return answer(options)
    from greenagent.cli.agent.run import run_agent

    return run_agent(options)


if __name__ == "__main__":
    sys.exit(main())
