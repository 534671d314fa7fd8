"""What has to be made or tidied up before the parts of the agent can be put together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path

import gevent

from greenagent.jobs.context import JobContext
from greenagent.jobs.handover import HandedOver
from greenagent.logs.console import Console
from greenagent.logs.store import LogStore
from greenagent.logs.write.cursors import CursorStore
from greenagent.logs.write.retention import StoreLimits
from greenagent.process.child import Survivor, why_alive
from greenagent.process.job_tree import parse_tag
from greenagent.process.orphans import Orphan, end_orphan, find_by_session, find_by_tag, living_owner
from greenagent.runtime import procfs
from greenagent.runtime.agent_log import AgentLog, LineOutput
from greenagent.runtime.locks import FileLock
from greenagent.settings.models import Settings
from greenagent.spool.identity import Former, keep_unsettled, settle
from greenagent.spool.schema import JobRecord
from greenagent.spool.spool import Spool
from greenagent.values.errors import GreenagentError


def make_log_store(settings: Settings, agent_log: AgentLog, console: LineOutput, cursors: CursorStore) -> LogStore:
    """The log store as the DB logger wants it.

    Without a DB logger the lines for controllers still need a place to wait in: beside the ledger.
    """
    main, logger = settings.main, settings.database_logger
    if logger is not None:
        limits = StoreLimits(logger.max_db_size, logger.max_dbs, logger.max_age, logger.min_free)
    else:
        limits = StoreLimits(run_memory=main.result_memory)
    return LogStore(
        settings.log_folder,
        main.message_id_file,
        agent_log,
        keep=logger is not None,
        limits=limits,
        console=Console(console),
        cursors=cursors,
    )


def find_original(spool: Spool) -> None:
    """In a copy of a ledger, finds out whether the agent of the original runs here: by the processes of its jobs."""
    original = spool.claim.original
    if original and any(living_owner(found.pid, original) is not None for found in find_by_tag(f"{original}:")):
        spool.claim = spool.claim._replace(former=spool.claim.former or spool.address)
        spool.database.run(partial(keep_unsettled, found=spool.claim))


def end_orphans(
    spool: Spool, agent_log: AgentLog, grace: float, locks: Sequence[FileLock] = ()
) -> dict[str, list[Survivor]]:
    """Ends what jobs of a crashed agent left running: found by tag, checked by pid and start time.

    Never what may have been left on purpose (``leave_children``), nor what runs under a living process: that is
    nobody's orphan, whatever this ledger says; it may be a copy that is not known for one. The ledger's own name is in
    ``locks`` too: so the processes are known also where the ledger was lost, or went back to what it was earlier, and
    the pids in the ledger are those of this boot. Returns what could not be ended, by the ids of the jobs cut off.
    """
    cut_off = {record.id: record for record in spool.unfinished()}
    orphans = _find_tagged(spool, agent_log, {lock.note for lock in locks} - {"", spool.instance}, cut_off)
    if spool.instance in {lock.note for lock in locks}:
        orphans += _find_untagged(cut_off.values())
    for _, orphan in orphans:
        agent_log.warning(f"process {orphan.pid} ({orphan.command}) is left from an earlier run: it is ended")
    ends = [gevent.spawn(end_orphan, orphan, grace) for _, orphan in orphans]
    gevent.joinall(ends)
    left: dict[str, list[Survivor]] = {}
    for (job_id, orphan), end in zip(orphans, ends, strict=True):
        if end.value is False and (process := procfs.read_process(orphan.pid)) is not None:
            survivor = Survivor(orphan.pid, orphan.command, why_alive(process))
            left.setdefault(job_id, []).append(survivor)
            agent_log.error(f"job {job_id}: could not be ended: {survivor}")
    return left


def _find_tagged(
    spool: Spool, agent_log: AgentLog, earlier: Collection[str], cut_off: Collection[str]
) -> list[tuple[str, Orphan]]:
    """Each with its job's id. ``earlier``: names of ledgers that are lost; ``cut_off``: the jobs known to have run."""
    orphans: list[tuple[str, Orphan]] = []
    owned: dict[str, int] = {}
    may_stay: list[str] = []
    for found in find_by_tag(*(f"{instance}:" for instance in (spool.instance, *earlier))):
        tag = parse_tag(found.tag)
        if tag is None:
            continue
        # A ledger that went back to what it was earlier calls runs cut off that had ended since.
        is_known = tag.instance == spool.instance and not (tag.may_stay and spool.loss.entries)
        if not (is_known and tag.job_id in cut_off):
            if is_known and (tag.may_stay or spool.has_ended(tag.job_id)):
                continue
            if tag.may_stay:
                may_stay.append(f"{found.pid} ({found.command}) of job {tag.job_id}")
                continue
        owner = living_owner(found.pid, tag.instance)
        if owner is None:
            orphans.append((tag.job_id, found))
        else:
            name = f"{owner.pid} ({owner.command})"
            owned[name] = owned.get(name, 0) + 1
    for name, number in owned.items():
        agent_log.warning(
            f"{number} processes of jobs in this ledger run under the living process {name}: they are left alone; "
            "does another agent use a copy of this ledger?"
        )
    if may_stay:
        agent_log.warning(
            f"the ledger {spool.path} does not know whether these processes of an earlier run were left on purpose: "
            f"they are left alone: {', '.join(may_stay)}"
        )
    return orphans


def _find_untagged(cut_off: Iterable[JobRecord]) -> list[tuple[str, Orphan]]:
    """What cleared its environment, or became another user's, so that it cannot be read; each with its job's id.

    By the sessions that the ledger names, and never by that of a process just because it carries a tag: whoever was
    given the tag by hand is in the session of a person.
    """
    jobs = {record.pid: record for record in cut_off if record.pid and record.start_ticks}
    found = find_by_session({pid: record.start_ticks or 0 for pid, record in jobs.items()})
    return [(jobs[leader].id, orphan) for leader, orphans in found.items() for orphan in orphans]


def leave_name(locks: Iterable[FileLock], instance: str, agent_log: AgentLog) -> None:
    """Writes the ledger's own name into the locks, where the next start finds it even if the ledger goes."""
    for lock in locks:
        try:
            lock.leave(instance)
        except OSError as error:
            agent_log.warning(f"the lock {lock.path} cannot be written: {error.strerror}")


def say_lost(spool: Spool, message_id_file: Path | None, locks: Iterable[FileLock], agent_log: AgentLog) -> None:
    """What goes with a ledger that lacks what an earlier run wrote into it: all of it, or the newest.

    ``message_id_file``: None where there was none before this start.
    """
    entries = spool.loss.entries
    if not spool.claim.is_new:
        if entries:
            agent_log.error(
                f"the ledger {spool.path} is an earlier one, put in its place while no agent ran: {entries} entries "
                "written since (jobs, results, statistics) are not in it. Those that controllers did not have are "
                "lost; jobs that have ended since then are taken for cut off, or run again"
            )
        return
    if not entries and message_id_file is None:
        return
    running = "" if any(lock.note for lock in locks) else ", and what its jobs left running is not known and goes on"
    known = f"{entries} entries were written there" if entries else f"{message_id_file} is of one"
    agent_log.warning(
        f"the ledger {spool.path} holds nothing of an earlier run, but {known}: "
        f"if that was this agent, the results it still owed its controllers are lost{running}"
    )


def complete_runs(context: JobContext, taken_over: HandedOver | None) -> None:
    """Gives an end to the records of runs that an earlier life left without one."""
    if context.spool.claim.is_others:
        return  # they are another agent's, and go on there
    try:
        context.runs.complete(context.spool, None if taken_over is None else taken_over.jobs)
    except GreenagentError as error:
        context.agent_log.warning(f"records of runs that were cut off stay without an end: {error}")


def leave_copied(spool: Spool, agent_log: AgentLog) -> None:
    """Before ``recover``: what is in a copy of another agent's ledger is that agent's to do and to tell."""
    claim = spool.claim
    if claim.is_others:
        owed = spool.leave_to_former()
        name = claim.former.replace("/", ":")
        is_same = claim.former == spool.address
        same = ". That is this agent's gid and nid too: give one of them another" if is_same else ""
        agent_log.warning(
            f"the ledger {spool.path} is a copy of that of agent {name}, which goes on with "
            f"its {owed.jobs} unfinished jobs; {owed.bodies} results and statistics that it owes are set aside here "
            f"(see greenagent-logs outbox){same}"
        )


def settle_former(spool: Spool, last_seq: int, agent_log: AgentLog) -> None:
    """After ``recover``: what was made under another gid or nid goes out under that.

    ``last_seq``: of the log lines so far.
    """
    claim = spool.claim
    if not claim.former:
        spool.database.run(partial(settle, former=None))
        return
    former = Former(last_seq, "" if claim.is_others else claim.former)
    bodies = spool.database.run(partial(settle, former=former))
    spool.formers.append(former)
    if not claim.is_others:
        agent_log.warning(
            f"this agent was {claim.former.replace('/', ':')}: log lines, and {bodies} results and statistics "
            "that wait, go to their controllers under that name"
        )
