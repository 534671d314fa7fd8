"""Finds out what a command is and makes its runs: built-in, ``execute``, or extension (protocol 9, 10)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from greenagent.builtins.call import BuiltIn, Call
from greenagent.jobs.environment import child_environment
from greenagent.jobs.extensions import Execution, resolve_execute, resolve_extension
from greenagent.jobs.job import Identity, Job
from greenagent.jobs.monitor import Monitor
from greenagent.jobs.run import ExternalRun
from greenagent.jobs.run_state import Limits, Outcome
from greenagent.process.child import Child, Children
from greenagent.process.spawn import SpawnRequest
from greenagent.process.tags import job_tag
from greenagent.runtime.greenlets import Supervisor
from greenagent.settings.models import Settings
from greenagent.spool.spool import Spool
from greenagent.values import levels, states
from greenagent.values.command import Command
from greenagent.values.errors import CommandError, GreenagentError
from greenagent.values.message import Message

EXECUTE: Final = "execute"
"""The command that runs any program."""


class RemovedExtensionError(CommandError):
    """The extension that a job was accepted for is not configured any more: the job ends with UNKNOWN_CMD."""


Resolver = Callable[[Command, "str | None"], Execution]
"""Turns a command and the controller it came from into what is executed. Raises CommandError."""


class LogOpener(Protocol):
    """Opens the log of a job (the agent knows which loggers want what)."""

    def __call__(self, job: Job) -> Any: ...


@dataclass(slots=True)
class Catalogue:
    """The commands this agent knows besides its extensions."""

    builtins: dict[str, BuiltIn] = field(default_factory=dict)
    """Run inside the agent, at once."""
    externals: dict[str, Resolver] = field(default_factory=dict)
    """Run as a process, in a slot."""


class Launcher:
    """Makes the runs of jobs."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        identity: Identity,
        spool: Spool,
        spawn: Callable[[SpawnRequest], Child],
        supervisor: Supervisor,
        open_log: LogOpener,
        open_monitor: Callable[[Job, Callable[[str], None]], Monitor],
        catalogue: Catalogue,
        children: Children,
    ) -> None:
        """``open_monitor(job, say)``: ``say`` puts a warning into the job's own log."""
        self._settings = settings
        self._identity = identity
        self._spool = spool
        self._spawn = spawn
        self._supervisor = supervisor
        self._open_log = open_log
        self._open_monitor = open_monitor
        self._catalogue = catalogue
        self._children = children

    def is_external(self, name: str) -> bool | None:
        """True for commands that run as a process, False for built-ins, None for unknown ones.

        An extension wins over a built-in of the same name (protocol 10.2).
        """
        if name in self._settings().extensions or name == EXECUTE or name in self._catalogue.externals:
            return True
        return False if name in self._catalogue.builtins else None

    def opened(self, job: Job) -> OpenJob:
        """Opens log and monitor for a job's whole life."""
        return OpenJob(self, job)

    def resolve(self, job: Job) -> Execution:
        """What a run of this job executes. Raises CommandError, RemovedExtensionError where it is known no more."""
        command = job.command
        extension = self._settings().extensions.get(command.cmd)
        if extension is not None:
            return resolve_extension(command, extension)
        resolver = self._catalogue.externals.get(command.cmd)
        if resolver is not None:
            return resolver(command, job.controller)
        if command.cmd != EXECUTE:  # a reload took it away: its arguments were never meant for execute
            raise RemovedExtensionError(f"the extension '{command.cmd}' is not configured any more")
        return resolve_execute(command)

    def environment(self, job: Job, execution: Execution, added: Mapping[str, str]) -> dict[str, str]:
        """The child's environment for the current run."""
        controller = self._settings().controllers.get(job.controller) if job.controller is not None else None
        tag = job_tag(self._spool.instance, job.id, job.run)
        wanted = {**added, **execution.environment}
        return child_environment(wanted, tag, self._identity.gid, self._identity.nid, controller)

    def run_builtin(self, job: Job) -> Outcome:
        """One call of a built-in."""
        starttime = int(time.time() * 1000)
        began = time.monotonic()
        try:
            answer = self._catalogue.builtins[job.command.cmd](Call(job.command, job.controller))
        except GreenagentError as error:
            return Outcome(states.ERROR, str(error), starttime=starttime, lived=time.monotonic() - began)
        if answer.after_report is not None:
            job.after_report = answer.after_report
        return Outcome(
            states.SUCCESS,
            answer.data,
            answer.level,
            starttime=starttime,
            lived=time.monotonic() - began,
            truncated=answer.truncated,
        )


class OpenJob:
    """A job with its log and its monitor open."""

    def __init__(self, launcher: Launcher, job: Job) -> None:
        self._launcher = launcher
        self.job = job
        self.log = launcher._open_log(job)
        if job.frozen is not None:
            self.log.restore(job.frozen.log)
        self._monitor = launcher._open_monitor(job, self._warn)

    def execute(self, job: Job) -> Outcome:
        """One run as a process, or the rest of one that an earlier image of the agent started."""
        launcher = self._launcher
        if job.frozen is not None and job.frozen.run is not None:
            return self._run().resume(job.frozen.run, launcher._children)
        starttime = int(time.time() * 1000)
        try:
            execution = launcher.resolve(job)
        except RemovedExtensionError as error:
            return Outcome(states.UNKNOWN_CMD, error.reason, starttime=starttime, can_restart=False)
        except CommandError as error:
            return Outcome(states.ERROR, error.reason, starttime=starttime, can_restart=False)
        environment = launcher.environment(job, execution, self._monitor.environment())
        return self._run().execute(execution, environment)

    def _run(self) -> ExternalRun:
        launcher, job = self._launcher, self.job
        main = launcher._settings().main
        return ExternalRun(
            job,
            self.log,
            self._monitor,
            Limits(main.kill_grace, main.pipe_drain, main.max_line),
            launcher._spawn,
            launcher._supervisor,
            lambda child: launcher._spool.process(job.row, child.pid, child.start_ticks),
        )

    def say_limit(self, job: Job, restarts: int) -> None:
        """The restart limit is reached: one critical message in the job's own log (protocol 5.3)."""
        text = f"greenagent: given up after {restarts} restarts"
        self.log.append([Message(levels.CRITICAL, text)])

    def _warn(self, text: str) -> None:
        self.log.append([Message(levels.WARNING, f"greenagent: {text}")])

    def close(self) -> None:
        if self.job.frozen is not None:
            self.job.frozen.log = self.log.state()  # at once: the agent hands it over as soon as this gives way
        self._monitor.close()
        self.log.close()
