"""The agent's own process: from its settings to its end, with its signals and the service manager's messages."""

from __future__ import annotations

from greenagent.runtime.patch import patch

patch()

import argparse  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

from greenagent.agent.agent import Agent  # noqa: E402
from greenagent.agent.shutdown import DRAIN, REBOOT, RESTART  # noqa: E402
from greenagent.agent.upgrade import keep_ledger, release_signals, replace_image, take_over  # noqa: E402
from greenagent.cli.agent.options import find_configuration, flags_of, refuse  # noqa: E402
from greenagent.cli.agent.pid_file import PidFile  # noqa: E402
from greenagent.jobs.handover import HandedOver  # noqa: E402
from greenagent.process.libc import reboot_machine  # noqa: E402
from greenagent.runtime.agent_log import AgentLog, LineOutput  # noqa: E402
from greenagent.runtime.native import NoThreadError  # noqa: E402
from greenagent.runtime.notify import ServiceManager  # noqa: E402
from greenagent.runtime.patch import return_large_blocks  # noqa: E402
from greenagent.settings import Loaded, SettingsError, load_settings  # noqa: E402
from greenagent.values.errors import GreenagentError  # noqa: E402


def run_agent(options: argparse.Namespace) -> int:
    """Runs the agent that the options ask for; returns the exit code."""
    try:
        taken_over = take_over(os.environ)  # first of all: what it holds open must not reach a child
        path, flags = find_configuration(options), flags_of(options)
        loaded = load_settings(path, os.environ, flags)
    except GreenagentError as error:
        return refuse(str(error).splitlines())  # of a configuration all
    return _serve(loaded, options.pid_file, lambda: load_settings(path, os.environ, flags), taken_over)


def _serve(
    loaded: Loaded, pid_file: Path | None, load_again: Callable[[], Loaded], taken_over: HandedOver | None
) -> int:
    """Starts the agent and serves until it is asked to end; SIGHUP makes it load its settings again."""
    try:
        output = LineOutput(2, "diagnostics")
    except NoThreadError as error:
        return refuse([f"cannot start: {error}"])
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
        return refuse([f"cannot be replaced in place: {error}; start it again: its jobs are reported as cut off"])


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
        return refuse([f"cannot reboot this machine: {error.strerror}"])
    return 0
