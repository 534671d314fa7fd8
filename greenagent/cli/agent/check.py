"""What ``greenagent --check`` looks at beyond the file: whether this machine has what the settings name."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from greenagent import builtins
from greenagent.jobs.commands import Commands, Scripts
from greenagent.jobs.job import Identity
from greenagent.jobs.startup import startup_command
from greenagent.logs.folder import LogFolder
from greenagent.process.program import Program, SpawnError, SpawnRequest
from greenagent.runtime.database import unfit_part
from greenagent.runtime.files import LINK, absolute, who_can_write
from greenagent.runtime.locks import lock_fault, lock_of
from greenagent.runtime.plain_files import not_a_file
from greenagent.settings import Loaded
from greenagent.settings.check import check_files, check_limits
from greenagent.settings.models import StartupTask, ledger_beside
from greenagent.settings.problems import Report
from greenagent.settings.toml_file import SECOND_PARSER
from greenagent.values.command import EXECUTE
from greenagent.values.errors import CommandError
from greenagent.values.text import nearest


def check_machine(loaded: Loaded) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Problems, which keep the agent from starting, and warnings; one line each. Leaves nothing behind."""
    settings = loaded.settings
    report = Report(settings.path, loaded.lines)
    check_files(settings, report)
    _check_commands(loaded, report)
    _check_extensions(loaded, report)
    logger = settings.database_logger
    if logger is not None and (text := _unwritable(logger.log_dir)):
        report.problem(("logging", logger.name, "log_dir"), text)
    _check_files(loaded, report)
    if settings.metrics.listen and find_spec("prometheus_client") is None:
        text = "needs the package prometheus_client: pip install prometheus_client, or leave it empty"
        report.problem(("metrics", "listen"), text)
    if SECOND_PARSER is None:
        text = "was read by the toml library alone, which misreads some texts: pip install tomli"
        report.warning((), text)
    return report.problems, (*check_limits(settings), *report.warnings)


def _check_files(loaded: Loaded, report: Report) -> None:
    main, logger = loaded.settings.main, loaded.settings.database_logger
    for name in ("message_id_file", "history_file", "ledger_file"):
        path = getattr(main, name)
        is_ledger = name == "ledger_file"
        # Beside the history, where nobody named another place: what its folder is like is said there.
        text = "" if is_ledger and path == ledger_beside(main.history_file) else no_file(path)
        with suppress(OSError):  # out of reach, which is said of the history
            if not text and path.is_symlink():
                text = f"{str(path)!r} {LINK}"  # the start refuses it, which is too late for a replacement
            if not text and is_ledger and (unfit := unfit_part(path)):
                text = f"{str(path)!r} cannot be used: {unfit}"
            if not text and name != "history_file":
                text = _lock_fault(lock_of(path))
        if text:
            report.problem(("main", name), text)
    if logger is not None and (text := _lock_fault(LogFolder(logger.log_dir).lock)):
        report.problem(("logging", logger.name, "log_dir"), text)


def _lock_fault(path: Path) -> str:
    text = lock_fault(path)
    return f"the lock {str(path)!r} {text}" if text else ""


def _check_commands(loaded: Loaded, report: Report) -> None:
    settings = loaded.settings
    scripts = Scripts(lambda: settings, lambda controller, digest: b"")  # startup tasks have none to fetch from
    commands = Commands(lambda: settings, scripts.commands)
    identity = Identity(settings.main.gid, settings.main.nid)
    known = {EXECUTE, *scripts.commands, *builtins.names(), *settings.extensions}
    for task in settings.startup:
        if task.name not in known:
            text = f"there is no command '{task.name}' here, its job ends with UNKNOWN_CMD{nearest(task.name, known)}"
            report.warning(("startup", task.id, "name"), text)
        elif text := _refused(task, commands, identity):
            report.warning(("startup", task.id, "name"), f"this task ends with ERROR: {text}")


def _refused(task: StartupTask, commands: Commands, identity: Identity) -> str:
    """Why a startup task cannot even be turned into what is executed; "" when it can, and for built-ins."""
    try:
        if commands.is_external(task.name):
            commands.resolve(startup_command(task, identity), None)
    except CommandError as error:
        return error.reason
    return ""


def _check_extensions(loaded: Loaded, report: Report) -> None:
    scripts = loaded.settings.main.scripts_dir
    if text := unreadable(scripts):
        report.warning(("main", "scripts_dir"), f"{text}, so no jumpscript runs")
    if text := who_can_write(scripts):
        report.warning(("main", "scripts_dir"), f"{str(scripts)!r}: {text}, and so decides what the agent runs")
    search_path = os.environ.get("PATH", os.defpath)
    for extension in loaded.settings.extensions.values():
        if "/" in extension.binary and not extension.cwd and not os.path.isabs(extension.binary):
            continue  # it is meant inside the folder that a command names
        try:
            path = Program(SpawnRequest(extension.binary, directory=extension.cwd or None)).locate(search_path)
            text = who_can_write(Path(path))
            warning = f"{path!r}: {text}, and so decides what the agent runs" if text else ""
        except SpawnError as error:
            warning = error.reason
        if warning:
            section = "extensions" if ("extensions", extension.name) in loaded.lines else "extension"
            report.warning((section, extension.name, "binary"), warning)


def unreadable(folder: Path) -> str:
    """Why what is in a folder cannot be read; "" when it can, and where there is none (yet)."""
    try:
        os.scandir(folder).close()
        reason = "" if os.access(folder, os.X_OK) else os.strerror(errno.EACCES)
    except FileNotFoundError:
        return ""
    except OSError as error:
        reason = error.strerror or str(error)
    return reason and f"{str(folder)!r} cannot be read: {reason}"


def no_file(path: Path) -> str:
    """Why a file of the agent's own cannot be written; "" when it can. Its folder must be there."""
    folder = absolute(path).parent
    try:
        if not folder.is_dir():
            return f"{str(path)!r} cannot be written: there is no folder {str(folder)!r}: make it, or name another"
        if path.exists() and (what := not_a_file(path.stat())):
            return f"{str(path)!r} {what}: name a file"
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            return f"{str(path)!r} cannot be written: {os.strerror(errno.EACCES)}"
    except OSError as error:  # such as a name that is too long, or a folder that may not be entered
        return f"{str(path)!r} cannot be written: {error.strerror}"
    return _unwritable(folder, path)


def _unwritable(folder: Path, file: Path | None = None) -> str:
    """Why nothing, or no ``file``, can be made in a folder, or in the nearest above it that is there; "" if it can."""
    above = absolute(folder)
    try:
        while not above.exists():
            above = above.parent
        os.rmdir(tempfile.mkdtemp(prefix=".check-", dir=above))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return ""  # no fault of the configuration; a start now would say so and exit
        what = f"cannot be created in {str(above)!r}"
        if file is None and above == absolute(folder):
            what = "cannot be written"
        return f"{str(file or folder)!r} {what}: {error.strerror}"
    return ""
