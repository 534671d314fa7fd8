"""``greenagent-controller``: starts the embedded controller."""

from greenagent.cli.streams import open_missing_streams
from greenagent.runtime.patch import patch

open_missing_streams()
patch()

import argparse  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402

from greenagent import __version__  # noqa: E402
from greenagent.cli.output import OutputParser  # noqa: E402
from greenagent.runtime.agent_log import AgentLog, LineOutput  # noqa: E402
from greenagent.runtime.greenlets import Supervisor  # noqa: E402
from greenagent.values.errors import GreenagentError  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        import falcon  # noqa: F401
    except ImportError:
        return _refuse("falcon is missing: install greenagent[controller]")
    from greenagent.controller.access import read_token
    from greenagent.controller.certificates import ServedCertificates
    from greenagent.controller.limits import Limits
    from greenagent.controller.parts import Parts
    from greenagent.controller.server import Controller

    if (options.tls_key or options.client_ca) and not options.tls_cert:
        return _refuse("--tls-key and --client-ca need --tls-cert", 2)
    output = LineOutput(2, "stderr")
    agent_log = AgentLog(output)
    ended = Event()
    fatal: list[str] = []

    def give_up(reason: str) -> None:
        fatal.append(reason)
        ended.set()

    _raise_descriptor_limit()
    limits = Limits(keep_jobs=options.keep_jobs, keep_for=options.keep_for)
    try:
        context = None
        if options.tls_cert:
            context = ServedCertificates(options.tls_cert, options.tls_key, options.client_ca)
        token = read_token(options.token_file) if options.token_file else None
        parts = Parts(agent_log, limits, options.state)
    except (GreenagentError, OSError) as error:
        return _refuse(str(error))
    try:
        controller = Controller(
            parts,
            Supervisor(agent_log, give_up),
            options.listen,
            token=token,
            host_names=tuple(options.host_name),
            context=context,
        )
    except OSError as error:
        parts.journal.close()
        host, port = options.listen
        reason = (error.strerror or str(error)).partition(": (")[0]  # gevent appends the address as a tuple
        return _refuse(f"cannot listen on {host}:{port}: {reason}")
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, ended.set)
    controller.start()
    try:
        print(f"listening on {controller.url}", flush=True)
    except OSError:
        pass  # nobody waits for the line
    ended.wait()
    controller.stop()
    for reason in fatal:
        agent_log.error(f"giving up: {reason}")
    output.close()
    return 1 if fatal else 0


def _raise_descriptor_limit() -> None:
    """Every parked poll is a descriptor; the controller starts no children who would inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # the soft limit holds; running out of it is said when it happens


def _refuse(reason: str, code: int = 1) -> int:
    print(f"greenagent-controller: {' '.join(reason.splitlines())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = OutputParser(prog="greenagent-controller", description="Serves agents and people.", allow_abbrev=False)
    parser.add_argument(
        "--listen",
        type=_address,
        default=("127.0.0.1", 8966),
        metavar="HOST:PORT",
        help="where to listen; port 0 takes a free one (default 127.0.0.1:8966)",
    )
    parser.add_argument("--state", type=Path, metavar="FILE", help="keep jobs, results and queues in this sqlite file")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain: serve TLS")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, where the certificate file has none")
    parser.add_argument(
        "--client-ca", type=Path, metavar="FILE", help="clients must show a certificate of this authority"
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="/api wants this token and serves other machines too"
    )
    parser.add_argument(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="a name this controller is reached by (repeatable)",
    )
    parser.add_argument(
        "--keep-jobs", type=_count, default=10_000, metavar="N", help="finished jobs to keep (default 10000)"
    )
    parser.add_argument(
        "--keep-for",
        type=_count,
        default=86_400,
        metavar="SECONDS",
        help="how long to keep finished jobs (default 86400)",
    )
    parser.add_argument("--version", action="version", version=f"greenagent-controller {__version__}")
    return parser


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise argparse.ArgumentTypeError(f"{host!r} is no name of a host") from error
    if len(port) > 9 or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"port above 65535: {text!r}")
    return host, int(port)


def _count(text: str) -> int:
    if text.startswith("-") and text[1:].isdecimal():
        raise argparse.ArgumentTypeError(f"{text} must not be negative")
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
