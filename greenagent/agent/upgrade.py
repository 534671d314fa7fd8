"""Replacement of the agent in place: same pid, running jobs untouched.

The new image is asked first whether it can take over, and everything else that can fail is tried. Then there is no
way back: the running jobs become values in the state, everything is brought to disk, and the new image is executed.
The state, the jobs' pipes and our locks are descriptors that stay open across the exec.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

import gevent

from greenagent.jobs.handover import READ_VERSIONS, VERSION, HandedOver, from_json, readable_versions
from greenagent.logs.folder import LogFolder
from greenagent.process.child import end
from greenagent.process.pipes import PipeReader
from greenagent.process.spawn import Spawner, SpawnError, SpawnRequest
from greenagent.runtime.clock import clock_base, keep_base
from greenagent.runtime.descriptors import close_descriptor, write_all
from greenagent.runtime.files import absolute
from greenagent.runtime.locks import FileLock, inherit_locks, lock_holder, lock_of
from greenagent.runtime.native import end_hub_threads
from greenagent.settings.models import Settings
from greenagent.spool.cursors import uploads_problem
from greenagent.values.errors import GreenagentError

VARIABLE: Final = "GREENAGENT_HANDOVER"
"""Names the open descriptor of the state to the new image; greenagent 0.1 names a file."""
LEDGER_VARIABLE: Final = f"{VARIABLE}_LEDGER"
"""Names the ledger to the image that is asked; one that does not know it, or an older one that asks, minds nothing."""
ADDRESS_VARIABLE: Final = f"{VARIABLE}_ADDRESS"
"""As that, names the gid and nid that the jobs were given to, as ``gid:nid``."""
_SUFFIX: Final = ".handover"
STATE_ROOM: Final = 16 << 20
"""Bytes of memory that must be had for the state before any job is suspended."""
DISK_ROOM: Final = 1 << 20
"""Bytes that the new image must find free where it opens its databases: on a full disk it cannot start."""
CHECK_TIMEOUT: Final = 60.0
CANNOT: Final = "the agent now installed cannot take over"
HELD_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Blocked from the first suspended job until the new handlers stand: one in between would kill the agent."""


def own_command() -> list[str]:
    """What starts this agent again: the interpreter and its arguments."""
    return [sys.executable, *sys.orig_argv[1:]]


def check_new_image(spawner: Spawner, ledger_file: Path, address: str) -> str | None:
    """Runs the image now on disk as ``--check --handover VERSION``; returns why it cannot take over, or None.

    ``address``: the agent's, as ``gid:nid``.
    """
    command = [*own_command(), "--check", "--handover", str(VERSION)]
    environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
    environment[LEDGER_VARIABLE] = os.path.realpath(ledger_file)
    environment[ADDRESS_VARIABLE] = address
    try:
        child = spawner.spawn(SpawnRequest(command[0], tuple(command[1:]), environment, None))
    except SpawnError as error:
        return f"{CANNOT}: {error}"
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    close_descriptor(child.stdin)
    readers = [gevent.spawn(_read_all, descriptor) for descriptor in (child.stdout, child.stderr)]
    status = child.wait(CHECK_TIMEOUT)
    if status is None:
        end(child, 1.0)
        reason = f"it did not answer within {CHECK_TIMEOUT:g} s"
    gevent.joinall(readers, timeout=5)
    said = (readers[1].value or b"").decode("utf-8", "replace").strip().splitlines()
    child.reap()
    if status is not None:
        reason = said[-1] if said else f"exit code {status.code}, signal {status.signal}"
    return None if status is not None and status.code == 0 else f"{CANNOT}: {reason}"


def _read_all(descriptor: int) -> bytes:
    return b"".join(PipeReader(descriptor).chunks())


def check_handover(version: str, settings: Settings, environment: Mapping[str, str]) -> str | None:
    """Answers ``--handover VERSION``: None when this image can go on from that state, else why not.

    Jobs are handed over as rows of the ledger: in another one those rows are nobody's or of other jobs. Under another
    gid or nid no controller would know them.
    """
    if version not in map(str, READ_VERSIONS):
        return f"this agent reads handover state {readable_versions()}, not {version}"
    ledger_file, logger = settings.main.ledger_file, settings.database_logger
    for folder in (ledger_file.parent, *(() if logger is None else (logger.log_dir,))):
        if _is_full(folder):
            return f"the disk of {folder} is full"
    now, before = os.path.realpath(ledger_file), environment.get(LEDGER_VARIABLE)
    if before is not None and now != before:
        return f"main.ledger_file has changed from {before} to {now}: stop and start the agent"
    address = f"{settings.main.gid}:{settings.main.nid}"
    if (was := environment.get(ADDRESS_VARIABLE, address)) != address:
        return f"main.gid and main.nid have changed from {was} to {address}: stop and start the agent"
    if logger is not None and (problem := uploads_problem(LogFolder(logger.log_dir).uploads)) is not None:
        return problem  # the new image would refuse to start with it, and leave the jobs to nobody
    names = [lock_of(settings.main.message_id_file)]
    names += [] if logger is None else [LogFolder(logger.log_dir).lock]
    for lock in names if before is not None else ():  # asked by an agent, which holds its own and is our parent
        if (holder := lock_holder(lock)) not in ("", str(os.getppid())):
            return f"{lock} is held by process {holder}: give this agent other files"
    return None


def _is_full(folder: Path) -> bool:
    try:
        found = os.statvfs(folder)
    except OSError:
        return False  # not there yet: the start makes it
    free = found.f_bavail if os.geteuid() else found.f_bfree
    return found.f_blocks > 0 and free * found.f_frsize < DISK_ROOM  # some network file systems tell no size


def open_state(ledger_file: Path, locks: Iterable[FileLock]) -> HandedOver:
    """Takes all that the state needs of the system, before any job is suspended. Raises OSError: nothing is held then.

    Its room is memory, where no full disk is in its way.
    """
    state = HandedOver(ledger_file=absolute(ledger_file), clock_base=clock_base())
    try:
        state.descriptor = os.memfd_create("greenagent-handover")
        os.posix_fallocate(state.descriptor, 0, STATE_ROOM)
        for lock in locks:
            state.locks[str(lock.path)] = lock.duplicate()
    except OSError:
        for descriptor in (state.descriptor, *state.locks.values()):
            if descriptor >= 0:
                os.close(descriptor)
        raise
    return state


def replace_image(state: HandedOver) -> NoReturn:
    """Executes the new image, which finds the state in its descriptor; does not return. Raises OSError if that fails.

    Only from the main thread, with everything closed that is not handed over.
    """
    write_all(state.descriptor, json.dumps(state.to_json()).encode())
    os.ftruncate(state.descriptor, os.lseek(state.descriptor, 0, os.SEEK_CUR))
    for kept in (state.descriptor, *state.descriptors):
        os.set_inheritable(kept, True)
    command = own_command()
    os.execve(command[0], command, {**os.environ, VARIABLE: str(state.descriptor)})


def take_over(environment: Mapping[str, str]) -> HandedOver | None:
    """What an earlier image left to this one, its descriptors closed on exec again; None at a plain start.

    Raises GreenagentError when the state cannot be read: the jobs are then dealt with as after a crash.
    """
    name = environment.get(VARIABLE)
    if name is None:
        return None
    os.environ.pop(VARIABLE, None)
    try:
        state = from_json(json.loads(_read_state(name)))
        if not name.isdecimal():
            state.ledger_file = Path(name.removesuffix(_SUFFIX))
        for descriptor in state.descriptors:
            os.set_inheritable(descriptor, False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GreenagentError(f"the state of the replaced agent cannot be read from {name}: {error}") from error
    inherit_locks(state.locks)
    if state.clock_base is not None:
        keep_base(state.clock_base)
    return state


def _read_state(name: str) -> bytes:
    """What ``VARIABLE`` names: a descriptor, or the file that greenagent 0.1 wrote beside its ledger."""
    if name.isdecimal():
        with open(int(name), "rb") as file:
            file.seek(0)
            return file.read()
    path = Path(name)
    data = path.read_bytes()
    path.unlink()
    return data


def keep_ledger(settings: Settings, state: HandedOver) -> Settings:
    """The settings with the ledger that the jobs handed over stand in.

    It may differ where the image before asked nothing about it, or the configuration changed since.
    """
    ledger_file = state.ledger_file
    if ledger_file is None or os.path.realpath(ledger_file) == os.path.realpath(settings.main.ledger_file):
        return settings
    return replace(settings, main=replace(settings.main, ledger_file=ledger_file))


def hold_signals() -> None:
    """Keeps signals in the kernel for the new image; those that came before are dealt with when this returns."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    end_hub_threads()
    gevent.sleep(0.01)


def release_signals() -> None:
    """The handlers stand: signals that came during the replacement are delivered now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
