"""``greenagent``: runs the agent in the foreground (design, section 1)."""

from __future__ import annotations

from greenagent.cli.early import end_at_interrupt, hold_signals

end_at_interrupt()
hold_signals()

from greenagent.cli.common import open_missing_streams  # noqa: E402
from greenagent.runtime.patch import patch  # noqa: E402

open_missing_streams()
patch()

import argparse  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterable  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

from greenagent import __version__  # noqa: E402
from greenagent.agent.agent import Agent  # noqa: E402
from greenagent.agent.shutdown import DRAIN, REBOOT, RESTART  # noqa: E402
from greenagent.agent.upgrade import (  # noqa: E402
    check_handover,
    keep_ledger,
    release_signals,
    replace_image,
    take_over,
)
from greenagent.cli.agent.check import check_machine  # noqa: E402
from greenagent.cli.agent.pid_file import PidFile  # noqa: E402
from greenagent.cli.agent.running import show_pid, show_status  # noqa: E402
from greenagent.cli.common import (  # noqa: E402
    EXIT_FAILED,
    NO_CONFIG,
    Parser,
    add_config,
    configuration_file,
    end_with_reader,
    print_error,
    run_program,
)
from greenagent.jobs.handover import HandedOver  # noqa: E402
from greenagent.process.libc import check_platform, reboot_machine  # noqa: E402
from greenagent.runtime.agent_log import AgentLog, LineOutput  # noqa: E402
from greenagent.runtime.native import NoThreadError  # noqa: E402
from greenagent.runtime.notify import ServiceManager  # noqa: E402
from greenagent.runtime.patch import return_large_blocks  # noqa: E402
from greenagent.settings import Loaded, SettingsError, load_settings  # noqa: E402
from greenagent.settings.check import check_limits  # noqa: E402
from greenagent.settings.show import print_config  # noqa: E402
from greenagent.uplink.proxy import proxy_variable  # noqa: E402
from greenagent.values.errors import GreenagentError  # noqa: E402

PROGRAM = "greenagent"


def build_parser() -> Parser:
    """The command line's own description."""
    parser = Parser(
        prog=PROGRAM, description="Runs jobs for one or more controllers, in the foreground, until SIGTERM."
    )
    add_config(parser)
    parser.add_argument("--check", action="store_true", help="check the configuration, name every problem, and exit")
    parser.add_argument("--print-config", action="store_true", help="show every setting and where it comes from")
    parser.add_argument(
        "--show-secrets", action="store_true", help="with --print-config: also passwords, env, args, data"
    )
    parser.add_argument(
        "--status", action="store_true", help="show how the agent that has its files does; exit code 3: none"
    )
    parser.add_argument("--show-pid", action="store_true", help="show which process has its files; exit code 3: none")
    parser.add_argument("--gid", "-gid", type=int, metavar="N", help="grid id, instead of main.gid")
    parser.add_argument("--nid", "-nid", type=int, metavar="N", help="node id, instead of main.nid")
    parser.add_argument("--roles", "-roles", metavar="A,B", help="roles, instead of main.roles")
    parser.add_argument("--pid-file", type=Path, metavar="FILE", help="written when ready, removed at exit")
    # Asked by a running agent that is about to be replaced by this one.
    parser.add_argument("--handover", metavar="VERSION", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the agent; the exit code: 0 ended as asked, 1 refused to start or gave up, 2 bad arguments."""
    options = build_parser().parse_args(arguments)
    asks = options.status or options.show_pid
    if options.check or options.print_config or asks:
        end_with_reader()
    try:
        taken_over = take_over(os.environ)  # first of all: what it holds open must not reach a child
        if (problem := check_platform()) is not None:
            return _refuse([problem])
        options.config = configuration_file(options.config)
        if not options.config:
            return _refuse([f"no configuration: name one with {NO_CONFIG}"])
        flags = {name: value for name in ("gid", "nid", "roles") if (value := getattr(options, name)) is not None}
        # --check looks at the files itself, so that their faults hide nothing else.
        loaded = load_settings(options.config, os.environ, flags, files=not (options.check or asks))
    except GreenagentError as error:
        problems = str(error).splitlines()  # of a configuration all
        if options.check and isinstance(error, SettingsError) and options.handover is None:
            problems.append("mend this first, then check again: what it needs of this machine was not looked at")
        return _refuse(problems)
    if asks:
        show = show_pid if options.show_pid else show_status
        return run_program(PROGRAM, lambda: show(loaded.settings.main))
    if options.handover is not None:
        problem = check_handover(options.handover, loaded.settings, os.environ)
        if problem is not None:
            return _refuse([problem])
    if options.check or options.print_config:
        return run_program(PROGRAM, lambda: _show(loaded, options))
    return run(loaded, options.pid_file, lambda: load_settings(options.config, os.environ, flags), taken_over)


def run(
    loaded: Loaded, pid_file: Path | None, load_again: Callable[[], Loaded], taken_over: HandedOver | None = None
) -> int:
    """Starts the agent and serves until it is asked to end; SIGHUP makes it load its settings again."""
    try:
        output = LineOutput(2, "diagnostics")
    except NoThreadError as error:
        return _refuse([f"cannot start: {error}"])
    return_large_blocks()
    agent_log = AgentLog(output)
    agent_log.set_verbosity(loaded.settings.main.verbosity)
    manager = ServiceManager(os.environ)
    for warning in loaded.warnings:
        agent_log.warning(warning)
    settings = loaded.settings if taken_over is None else keep_ledger(loaded.settings, taken_over)
    if settings is not loaded.settings:
        agent_log.warning("not applied, needs a restart: main.ledger_file")
    agent = Agent(settings, agent_log)
    pid = PidFile(pid_file)
    try:
        pid.probe()
        agent.start(taken_over)
    except (GreenagentError, OSError) as error:
        agent_log.error(f"cannot start: {error}")
        output.close()
        return 1
    _handle_signals(agent, load_again, manager)  # before anybody can read our pid: SIGHUP would kill
    try:
        pid.write()
        pid.watch(agent.state_files)
    except GreenagentError as error:
        agent_log.error(str(error))
        agent.stop()  # jobs may run already: none is left behind
        output.close()
        return 1
    release_signals()
    manager.ready(_polled(agent))
    while (how := agent.requests.wait()) == RESTART:
        manager.reloading()  # what goes on in our place says when it is ready
        state = agent.hand_over()
        if state is not None:
            return _replace(state, agent_log, output)
        manager.ready(_polled(agent))
    _announce_end(manager, how)
    agent.stop(how)
    try:
        pid.remove()
    except GreenagentError as error:
        agent_log.warning(str(error))
    agent_log.info("ended")
    output.close()
    if how == REBOOT:
        return _reboot()
    return 1 if agent.failure else 0


def _replace(state: HandedOver, agent_log: AgentLog, output: LineOutput) -> int:
    """Executes the agent now installed in our place; returns only if that fails."""
    jobs = "1 running job goes on" if len(state.jobs) == 1 else f"{len(state.jobs)} running jobs go on"
    agent_log.info(f"replaced in place, {jobs}")
    output.close()
    try:
        replace_image(state)
    except OSError as error:
        return _refuse([f"cannot be replaced in place: {error}; start it again: its jobs are reported as cut off"])


def _handle_signals(agent: Agent, load_again: Callable[[], Loaded], manager: ServiceManager) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, agent.requests.ask)
    gevent.signal_handler(signal.SIGUSR1, agent.requests.ask, DRAIN)
    gevent.signal_handler(signal.SIGUSR2, agent.requests.ask, RESTART)
    gevent.signal_handler(signal.SIGHUP, _on_hangup, agent, load_again, manager)


def _announce_end(manager: ServiceManager, how: str) -> None:
    if how == DRAIN:
        # Not "stopping": from there the manager gives its TimeoutStopSec, and jobs may take longer.
        manager.status("draining: the running jobs end by themselves")
    else:
        manager.stopping()


def _polled(agent: Agent) -> str:
    return f"polling {', '.join(agent.settings.channel.cmds) or 'nobody'}"


def _on_hangup(agent: Agent, load_again: Callable[[], Loaded], manager: ServiceManager) -> None:
    manager.reloading()
    try:
        _reload(agent, load_again)
    finally:
        manager.ready(_polled(agent))


def _reload(agent: Agent, load_again: Callable[[], Loaded]) -> None:
    """A broken file changes nothing and says why."""
    try:
        loaded = load_again()
    except SettingsError as error:
        for problem in error.problems:
            agent.agent_log.error(f"not reloaded: {problem}")
        return
    for warning in loaded.warnings:
        agent.agent_log.warning(warning)
    agent.reload(loaded.settings)


def _reboot() -> int:
    """Every job has ended and everything is on disk: the machine may go (protocol 9)."""
    try:
        reboot_machine()
    except OSError as error:
        return _refuse([f"cannot reboot this machine: {error.strerror}"])
    return 0


def _show(loaded: Loaded, options: argparse.Namespace) -> int:
    """What ``--check`` or ``--print-config`` was asked for."""
    problems: tuple[str, ...]
    problems, warnings = ((), check_limits(loaded.settings)) if options.print_config else check_machine(loaded)
    proxied = [
        f"[controllers.{key}] url: it is asked through the proxy of {variable}"
        for key, controller in loaded.settings.controllers.items()
        if (variable := proxy_variable(controller.url))
    ]
    for warning in (*loaded.warnings, *warnings, *proxied):
        print_error(PROGRAM, f"warning: {warning}")
    if problems:
        return _refuse(problems)
    fine = f"{loaded.settings.path}: the configuration is fine\n"
    print(print_config(loaded.settings, options.show_secrets) if options.print_config else fine, end="")
    return 0


def _refuse(problems: Iterable[str]) -> int:
    for problem in problems:
        print_error(PROGRAM, problem)
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
