"""What ``greenagent`` answers about an agent: its configuration, the check of its machine, how it does, its pid."""

from __future__ import annotations

import argparse
import os

from greenagent.cli.agent.options import PROGRAM, find_configuration, flags_of, refuse
from greenagent.cli.agent.running import show_pid, show_status
from greenagent.cli.common import print_error, run_program
from greenagent.settings import Loaded, SettingsError, load_settings
from greenagent.settings.check import check_limits, destinations
from greenagent.settings.show import print_config
from greenagent.values.errors import GreenagentError


def answer(options: argparse.Namespace) -> int:
    """Answers what was asked; returns the exit code."""
    asks = options.status or options.show_pid
    try:
        # --check looks at the files itself, so that their faults hide nothing else.
        files = not (options.check or asks)
        loaded = load_settings(find_configuration(options), os.environ, flags_of(options), files=files)
    except GreenagentError as error:
        problems = str(error).splitlines()  # of a configuration all
        if options.check and isinstance(error, SettingsError) and options.handover is None:
            problems.append("mend this first, then check again: what it needs of this machine was not looked at")
        return refuse(problems)
    if asks:
        show = show_pid if options.show_pid else show_status
        return run_program(PROGRAM, lambda: show(loaded.settings.main))
    if options.handover is not None:
        from greenagent.agent.upgrade import check_handover

        problem = check_handover(options.handover, loaded.settings, os.environ)
        if problem is not None:
            return refuse([problem])
    return run_program(PROGRAM, lambda: _show(loaded, options))


def _show(loaded: Loaded, options: argparse.Namespace) -> int:
    """What ``--check`` or ``--print-config`` was asked for."""
    from greenagent.uplink.proxy import proxy_variable

    problems: tuple[str, ...] = ()
    if options.print_config:
        warnings = check_limits(loaded.settings)
    else:
        from greenagent.cli.agent.check import check_machine

        problems, warnings = check_machine(loaded)
    proxied = [
        f"[{'.'.join(place)}] url: it is reached through the proxy of {variable}"
        for place, destination in destinations(loaded.settings)
        if (variable := proxy_variable(destination.url))
    ]
    for warning in (*loaded.warnings, *warnings, *proxied):
        print_error(PROGRAM, f"warning: {warning}")
    if problems:
        return refuse(problems)
    fine = f"{loaded.settings.path}: the configuration is fine\n"
    print(print_config(loaded.settings, options.show_secrets) if options.print_config else fine, end="")
    return 0
