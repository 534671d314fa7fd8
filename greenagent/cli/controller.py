"""``greenagent-controller``: starts the embedded controller."""

from __future__ import annotations

from greenagent.cli.early import end_at_interrupt

end_at_interrupt()

from greenagent.cli.common import open_missing_streams  # noqa: E402
from greenagent.runtime.patch import patch  # noqa: E402

open_missing_streams()
patch()

import argparse  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402

from greenagent import __version__  # noqa: E402
from greenagent.cli.common import EXIT_FAILED, EXIT_USAGE, Parser, count, print_error  # noqa: E402
from greenagent.runtime.agent_log import AgentLog, LineOutput  # noqa: E402
from greenagent.runtime.garbage import shorten_pauses  # noqa: E402
from greenagent.runtime.greenlets import Supervisor  # noqa: E402
from greenagent.runtime.patch import return_large_blocks  # noqa: E402
from greenagent.values.errors import GreenagentError  # noqa: E402
from greenagent.values.text import address_text, is_loopback, parse_address  # noqa: E402

if TYPE_CHECKING:
    from greenagent.controller.backend import Backend
    from greenagent.controller.limits import Limits

PROGRAM = "greenagent-controller"
CLIENTS_VARIABLE = "GREENAGENT_CONTROLLER_ORIGINAL_CLIENTS"
REDIS_VARIABLE = "GREENAGENT_CONTROLLER_REDIS"
"""A URL with a password is not for the command line, which every user of the machine can read."""


def main(arguments: list[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        import cronsim  # noqa: F401
        import falcon  # noqa: F401
    except ImportError as error:
        name = error.name
        return _refuse(f"the package {name} is missing: pip install {name}, or the extra controller (see README)")
    from greenagent.controller.controller import Controller
    from greenagent.controller.http.access import TokenFile
    from greenagent.controller.http.tls import served_context
    from greenagent.controller.limits import Limits
    from greenagent.controller.services import Services

    clients_url = options.original_clients or os.environ.get(CLIENTS_VARIABLE, "")
    if clients_url:
        try:
            from greenagent.controller.clients.front import OriginalClients
        except ImportError:
            return _refuse("the package redis is missing: pip install redis, or the extra redis (docs/originals.md)")
    if options.redis and options.state:
        return _refuse("give either --state, for one process, or --redis, for several", EXIT_USAGE)
    if (options.tls_key or options.client_ca) and not options.tls_cert:
        return _refuse("--tls-key and --client-ca need --tls-cert", EXIT_USAGE)
    output = LineOutput(2, "stderr")
    agent_log = AgentLog(output)
    ended = Event()
    fatal: list[str] = []

    def give_up(reason: str) -> None:
        fatal.append(reason)
        ended.set()

    _raise_descriptor_limit()
    return_large_blocks()
    shorten_pauses()
    limits = Limits(keep_jobs=options.keep_jobs, keep_for=options.keep_for)
    try:
        tls = served_context(options.tls_cert, options.tls_key, options.client_ca) if options.tls_cert else None
        token = TokenFile(options.token_file, agent_log) if options.token_file else None
        services = Services(agent_log, limits, _backend(options, agent_log, limits))
        clients = OriginalClients(clients_url, services) if clients_url else None
    except (GreenagentError, OSError) as error:
        return _refuse(str(error))
    # Before anybody can see that it listens: a signal in between would kill it without its end being in order.
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, ended.set)
    try:
        controller = Controller(
            services,
            Supervisor(agent_log, give_up),
            options.listen,
            token=token,
            host_names=tuple(options.host_name),
            tls=tls,
            clients=clients,
        )
    except OSError as error:
        services.backend.close()
        reason = (error.strerror or str(error)).partition(": (")[0]  # gevent appends the address as a tuple
        return _refuse(f"cannot listen on {address_text(*options.listen)}: {reason}")
    controller.start()
    for warning in (*open_doors(options), *(loose_ends(options, clients_url) if clients_url else ())):
        agent_log.warning(warning)
    try:
        print(f"listening on {controller.url}", flush=True)
    except OSError:
        pass  # nobody waits for the line
    ended.wait()
    controller.stop()
    for reason in fatal:
        agent_log.error(f"giving up: {reason}")
    output.close()
    return EXIT_FAILED if fatal else 0


def _backend(options: argparse.Namespace, agent_log: AgentLog, limits: Limits) -> Backend:
    """Raises GreenagentError where what is kept cannot be used."""
    if not options.redis:
        from greenagent.controller.backend import LocalBackend

        return LocalBackend(agent_log, limits, options.state)
    try:
        import redis  # noqa: F401
    except ImportError:
        raise GreenagentError(
            "the package redis is missing: pip install redis, or the extra redis (see README)"
        ) from None
    from greenagent.controller.fleet.backend import FleetBackend

    return FleetBackend(options.redis, agent_log, limits)


def open_doors(options: argparse.Namespace) -> Iterator[str]:
    """Who can use this controller whom its owner may not think of, one line each (docs/security.md)."""
    if not options.token_file and not options.client_ca:
        yield (
            "/api has no token: every user of this machine can run commands on all agents, as the users that these run "
            "as (root, for a service); --token-file asks for one"
        )
    if not is_loopback(options.listen[0]) and not options.client_ca:
        reads = "" if options.tls_cert else ", and whoever is on the way can read and change what is sent (--tls-cert)"
        yield (
            f"{address_text(*options.listen)} is open to other machines: whoever reaches it can come as any agent and "
            f"take its commands (--client-ca){reads}"
        )


def loose_ends(options: argparse.Namespace, clients_url: str) -> Iterator[str]:
    """What may be lost, and who comes in, by way of the original clients' Redis, one line each."""
    if options.state is None and not options.redis:
        yield (
            "commands of original clients are forgotten when this controller ends, and who waits for their results"
            " waits in vain: --state keeps them"
        )
    if "@" not in clients_url:
        yield "the URL of the original clients has no password: who reaches their Redis can run commands on all agents"


def _raise_descriptor_limit() -> None:
    """Every parked poll is a descriptor; the controller starts no children who would inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # the soft limit holds; running out of it is said when it happens


def _refuse(reason: str, code: int = EXIT_FAILED) -> int:
    print_error(PROGRAM, " ".join(reason.splitlines()))
    return code


def build_parser() -> Parser:
    """The command line's own description."""
    parser = Parser(prog=PROGRAM, description="Serves agents and people.")
    parser.add_argument(
        "--listen",
        type=parse_address,
        default=("127.0.0.1", 8966),
        metavar="HOST:PORT",
        help="where to listen; port 0 takes a free one (default 127.0.0.1:8966)",
    )
    add = parser.add_argument
    add("--state", type=Path, metavar="FILE", help="keep jobs, results and queues in this sqlite file")
    add(
        "--redis",
        metavar="URL",
        default=os.environ.get(REDIS_VARIABLE, ""),
        help="share all state with other processes through this Redis (redis://, rediss:// or unix://), which may"
        f" also stand in {REDIS_VARIABLE}",
    )
    add("--tls-cert", type=Path, metavar="FILE", help="certificate chain: serve TLS")
    add("--tls-key", type=Path, metavar="FILE", help="its key, where the certificate file has none")
    add("--client-ca", type=Path, metavar="FILE", help="clients must show a certificate of this authority")
    add("--token-file", type=Path, metavar="FILE", help="/api wants this token and serves other machines too")
    add("--host-name", action="append", default=[], metavar="NAME", help="a name it is reached by (repeatable)")
    add(
        "--original-clients",
        metavar="URL",
        help="serve the original clients on this Redis (redis://, rediss://, unix://); with a password better as"
        f" {CLIENTS_VARIABLE}",
    )
    add("--keep-jobs", type=count, default=10_000, metavar="N", help="finished jobs to keep (default 10000)")
    add("--keep-for", type=count, default=86_400, metavar="SECONDS", help="how long to keep them (default 86400)")
    add("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
