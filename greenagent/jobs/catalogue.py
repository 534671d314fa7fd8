"""All commands the agent knows besides extensions, by name (protocol 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from greenagent.builtins.call import Answer, BuiltIn, Call, answer
from greenagent.builtins.kill import kill
from greenagent.builtins.killall import killall
from greenagent.builtins.messages import del_msgs, get_msgs
from greenagent.builtins.ping import ping
from greenagent.builtins.processes import LiveJob, get_aggregated_stats, get_process_stats, get_processes_stats
from greenagent.builtins.restart import reboot as reboot_command
from greenagent.builtins.restart import restart as restart_command
from greenagent.builtins.system_cpu import cpu_info
from greenagent.builtins.system_disk import disk_info
from greenagent.builtins.system_memory import memory_info
from greenagent.builtins.system_network import network_info
from greenagent.builtins.system_os import os_info
from greenagent.jobs.admission import Admission
from greenagent.jobs.launcher import Catalogue
from greenagent.jobs.scripts import FetchScript, Scripts
from greenagent.logs.read.query import LogQuery
from greenagent.logs.store import LogStore
from greenagent.settings.models import Settings
from greenagent.statistics.meter import Meter

COMMANDS: Final = frozenset(
    {
        "execute",
        "bash",
        "jumpscript",
        "jumpscript_content",
        "ping",
        "kill",
        "killall",
        "restart",
        "reboot",
        "get_cpu_info",
        "get_disk_info",
        "get_mem_info",
        "get_nic_info",
        "get_os_info",
        "get_process_stats",
        "get_processes_stats",
        "get_aggregated_stats",
        "get_msgs",
        "del_msgs",
    }
)
"""Every command besides extensions, for ``--check``."""


def fill_catalogue(
    catalogue: Catalogue,
    *,
    jobs: Admission,
    store: LogStore | None,
    meter: Meter,
    settings: Callable[[], Settings],
    restart: Callable[[], None],
    reboot: Callable[[], None],
    fetch_script: FetchScript,
) -> None:
    """Registers every built-in; without a DB logger (``store`` None) there are no messages to get (protocol 6.2)."""

    def live_jobs() -> Iterator[LiveJob]:
        for job in list(jobs.live.values()):
            yield LiveJob(job.command, meter.usage(job.id).to_wire())

    catalogue.builtins.update(
        {
            "ping": ping,
            "kill": kill(jobs),
            "killall": killall(jobs),
            "restart": restart_command(restart),
            "reboot": reboot_command(lambda: settings().main.allow_reboot, reboot),
            "get_cpu_info": reporting(cpu_info),
            "get_disk_info": reporting(disk_info),
            "get_mem_info": reporting(memory_info),
            "get_nic_info": reporting(network_info),
            "get_os_info": reporting(os_info),
            "get_process_stats": get_process_stats(live_jobs),
            "get_processes_stats": get_processes_stats(live_jobs),
            "get_aggregated_stats": get_aggregated_stats(lambda: meter.total().to_wire()),
        }
    )
    scripts = Scripts(settings, fetch_script)
    catalogue.externals.update(
        {
            "bash": scripts.bash,
            "jumpscript": scripts.jumpscript,
            "jumpscript_content": scripts.jumpscript_content,
        }
    )
    if store is not None:
        catalogue.builtins["get_msgs"] = get_msgs(LogQuery, store.query)
        catalogue.builtins["del_msgs"] = del_msgs(LogQuery, store.delete)


def reporting(function: Callable[[], Any]) -> BuiltIn:
    """A built-in that only tells something."""

    def run(call: Call) -> Answer:
        return answer(function())

    return run
