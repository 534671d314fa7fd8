"""Checks that look beyond one setting: certificate files, startup tasks, marks of log lines, limits of the system."""

from __future__ import annotations

import os
import re
import resource
import ssl
import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from greenagent.runtime.files import read_token, who_can_write
from greenagent.runtime.tls import (
    CERTIFICATE,
    PRIVATE_KEY,
    CertificateError,
    PemFile,
    check_pem,
    load_authority,
    load_pair,
    opened_pem,
)
from greenagent.settings.destinations import ControllerSettings, SecuritySettings, Sink
from greenagent.settings.models import Settings, StartupTask
from greenagent.settings.problems import Place, Report
from greenagent.settings.schema import declared
from greenagent.values.arguments import KNOWN_ARGUMENTS
from greenagent.values.command import parse_command
from greenagent.values.errors import CommandError, GreenagentError
from greenagent.values.message import MAX_PAIRS
from greenagent.values.text import is_loopback, nearest, parse_address

DESCRIPTORS_PER_JOB: Final = 5
"""Pipes for stdin, stdout and stderr, the pidfd, and one to spare."""
OTHER_DESCRIPTORS: Final = 100
"""Databases, connections to controllers and of those who read the metrics (32 at most)."""
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


# -- certificate files: looked at before anything connects, each fault told apart (protocol 1.4)


def check_files(settings: Settings, report: Report) -> None:
    """What the files that the agent trusts are like: its certificates, and who can change those and the configuration.

    A root agent refuses files that others can write, since they could make themselves root; for others it is a warning.
    """
    files: list[tuple[Place, Path]] = [((), settings.path)]
    for place, destination in destinations(settings):
        check_certificates((*place, "security"), destination.security, report)
        for name in declared(SecuritySettings):
            if (path := getattr(destination.security, name)) is not None:
                files.append(((*place, "security", name), path))
    for key, sink in settings.sinks.items():
        if sink.token_file is not None:
            _check_token(("sinks", key, "token_file"), sink.token_file, report)
    note = report.problem if os.geteuid() == 0 else report.warning
    for place, path in files:
        if text := who_can_write(path):
            note(place, f"{str(path)!r}: {text}" if place else text)


def destinations(settings: Settings) -> Iterator[tuple[Place, ControllerSettings | Sink]]:
    """Every controller and sink, with the place of its section."""
    yield from ((("controllers", key), controller) for key, controller in settings.controllers.items())
    yield from ((("sinks", key), sink) for key, sink in settings.sinks.items())


def _check_token(place: Place, path: Path, report: Report) -> None:
    try:
        read_token(path)
    except GreenagentError as error:
        report.problem(place, str(error))
        return
    if path.stat().st_mode & stat.S_IROTH:
        report.warning(place, f"{str(path)!r} can be read by every user, run: chmod o= {path}")


def check_certificates(place: Place, security: SecuritySettings, report: Report) -> None:
    """Every fault of a destination's certificate files; those with which it could still be reached are warnings."""
    certificate, key, authority = (
        PemFile(name, path) if (path := getattr(security, name)) is not None else None
        for name in ("client_certificate", "client_certificate_key", "certificate_authority")
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def usable(file: PemFile | None, use: Callable[[PemFile], None]) -> bool:
        try:
            if file is not None:
                use(file)
        except CertificateError as error:
            other = f" {error.other}" if error.other is not None else ""
            report.problem((*place, error.file.setting), f"{str(error.file.path)!r} {error.fault}{other}")
            return False
        return file is not None

    certificate_usable = usable(certificate, lambda file: check_pem(file, CERTIFICATE))
    key_usable = usable(key, lambda file: check_pem(file, PRIVATE_KEY))
    usable(authority, lambda file: load_authority(context, file))
    if certificate is not None and key is None:
        report.problem((*place, "client_certificate"), "needs client_certificate_key beside it")
    elif key is not None and certificate is None:
        report.warning((*place, "client_certificate_key"), "is not used without client_certificate")
    elif certificate is not None and certificate_usable and key_usable:
        usable(key, lambda file: load_pair(context, certificate, file))
        if text := _out_of_its_time(certificate):
            report.warning((*place, "client_certificate"), text)
    if key is not None and key_usable and key.path.stat().st_mode & stat.S_IROTH:
        text = f"{str(key.path)!r} can be read by every user, run: chmod o= {key.path}"
        report.warning((*place, "client_certificate_key"), text)


def _out_of_its_time(certificate: PemFile) -> str:
    """Whether a certificate has expired or is not valid yet. A clock may be wrong, so that this is only a warning.

    ``ssl`` tells the dates of a peer's certificate only; what its own tests read a file with is there from 2.6 to 3.14.
    """
    try:
        decode: Any = ssl._ssl._test_decode_cert  # type: ignore[attr-defined]
        with opened_pem(certificate, CERTIFICATE) as path:
            found = decode(path)
        begin, end = (
            datetime.fromtimestamp(ssl.cert_time_to_seconds(found[name]), timezone.utc)
            for name in ("notBefore", "notAfter")
        )
    except (AttributeError, CertificateError, KeyError, OSError, ValueError):
        return ""
    now, name = datetime.now(timezone.utc), repr(str(certificate.path))
    if now > end:
        return f"{name} has expired on {end:%Y-%m-%d %H:%M:%S} UTC, make a new one"
    if now < begin:
        return f"{name} is not valid before {begin:%Y-%m-%d %H:%M:%S} UTC, is this machine's clock right?"
    return ""


# -- what one setting means for others


def check_pairs(settings: Settings, report: Report) -> None:
    """More pairs of AC loggers and controllers than there are marks are one problem, at the last such logger."""
    loggers = settings.controller_loggers
    pairs = sum(len(logger.controllers) for logger in loggers)
    with_lines = len(settings.line_sinks)
    sinks = f" and {with_lines} sinks" if with_lines else ""
    if pairs + with_lines > MAX_PAIRS:
        text = (
            f"there are {pairs} pairs of an AC logger and one of its controllers{sinks}, "
            f"no more than {MAX_PAIRS} are possible: name fewer controllers"
        )
        place = ("logging", loggers[-1].name, "controllers") if loggers else ("sinks",)
        report.problem(place, text)


def check_sinks(settings: Settings, report: Report) -> None:
    """Sinks and controllers share one set of names; a sink is shown one token or password."""
    for key, sink in settings.sinks.items():
        if key in settings.controllers:
            report.problem(("sinks", key), "has the name of a controller, give it another")
        parts = urlsplit(sink.url)
        shown = [
            name
            for name, found in (
                ("token_file", sink.token_file is not None),
                ("the password in url", "@" in parts.netloc),
                ("Authorization in headers", any(name.lower() == "authorization" for name in sink.headers)),
            )
            if found
        ]
        if len(shown) > 1:
            report.problem(("sinks", key), f"has {' and '.join(shown)}: keep one of them")


def check_transport(settings: Settings, report: Report) -> None:
    """Whoever is between two machines reads and changes what goes over plain http."""
    for place, destination in destinations(settings):
        parts = urlsplit(destination.url)
        if parts.scheme.lower() != "http" or is_loopback(parts.hostname or ""):
            continue
        if settings.main.require_tls:
            report.problem((*place, "url"), "is http to another machine, which main.require_tls refuses")
        else:
            what = "can read and change commands" if place[0] == "controllers" else "can read what is sent"
            report.warning((*place, "url"), f"is http to another machine: whoever is on the way {what}, use https")


def check_listen(settings: Settings, report: Report) -> None:
    """The figures, and what jobs run, have no password: served beyond this machine, that is a warning."""
    listen = settings.metrics.listen
    if listen and "metrics.listen" in settings.origins and not is_loopback(parse_address(listen)[0]):
        text = "is not a loopback address: whoever reaches it reads without a password what jobs run here"
        report.warning(("metrics", "listen"), text)


def check_limits(settings: Settings) -> tuple[str, ...]:
    """Warnings, one line each, for ``--check``: ``max_jobs`` against the limit of open files.

    The agent never changes that limit, since its children would inherit it (design, section 3).
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.main.max_jobs * DESCRIPTORS_PER_JOB + OTHER_DESCRIPTORS
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return ()
    return (
        f"{settings.path}: [main] max_jobs: {settings.main.max_jobs} jobs may need {needed} open files, "
        f"the limit is {soft}: raise it (ulimit -n, LimitNOFILE=) or lower max_jobs",
    )


# -- startup tasks (protocol 11)


def check_startup(settings: Settings, report: Report) -> None:
    """Reports what keeps startup tasks from running as written."""
    tasks = {task.id: task for task in settings.startup}
    for task in settings.startup:
        _check_command(task, settings, report)
        for other in task.after:
            if other == task.id:
                report.problem(("startup", task.id, "after"), "names the task itself")
            elif other not in tasks:
                hint = nearest(other, tasks)
                report.problem(("startup", task.id, "after"), f"there is no startup task '{other}'{hint}")
    for circle in _circles(tasks):
        report.problem(("startup", circle[0], "after"), f"these tasks wait for each other: {' -> '.join(circle)}")


def _check_command(task: StartupTask, settings: Settings, report: Report) -> None:
    place = ("startup", task.id)
    try:
        command = parse_command({"id": task.id, "cmd": task.name, "args": task.args, "data": task.data})
    except CommandError as error:
        argument = re.match(r"args\.(\w+):? ", error.reason)
        if argument:
            report.problem((*place, "args", argument.group(1)), error.reason[argument.end() :])
        else:
            report.problem(place, error.reason)
        return
    for warning in command.warnings:
        report.warning((*place, "args"), warning)
    extension = settings.extensions.get(task.name)
    texts = extension.args if extension is not None else ()
    known = {*KNOWN_ARGUMENTS, *(name for text in texts for name in _PLACEHOLDER.findall(text))}
    for key in task.args:
        if key not in known:
            report.warning((*place, "args", key), f"is not a known run argument and is kept{nearest(key, known)}")


def _circles(tasks: Mapping[str, StartupTask]) -> Iterator[list[str]]:
    """Circles of tasks that wait for each other, such as [a, b, a]: a waits for b."""
    waits = {key: [other for other in task.after if other in tasks and other != key] for key, task in tasks.items()}
    while True:
        try:
            TopologicalSorter(waits).prepare()
        except CycleError as error:
            circle: list[str] = error.args[1][::-1]
            yield circle
            waits[circle[0]].remove(circle[1])  # so that the next circle is found
        else:
            return
