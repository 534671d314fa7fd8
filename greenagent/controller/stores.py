"""What a controller keeps, as the rest of it sees that, wherever it lies."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from greenagent.controller.model import AgentKey, Assignment, Brief, Job, Listener, Result, Target
from greenagent.controller.state.log_lines import Line, Record
from greenagent.controller.state.metrics import Point
from greenagent.controller.state.open_texts import OpenText, Shown
from greenagent.controller.state.scripts import Script


class Jobs(Protocol):
    """All jobs by id, in the order they came. All that writes raises StateError, and changes nothing then."""

    @property
    def unfinished_bytes(self) -> int:
        """Bytes of the commands and results of unfinished jobs."""
        ...

    @property
    def unfinished(self) -> int:
        """How many jobs have not ended."""
        ...

    def get(self, job_id: str, key: AgentKey | None = None) -> Job | None:
        """``key``: what other agents have of it is not looked at."""
        ...

    def has_part(self, job_id: str, key: AgentKey) -> bool | None:
        """Whether an agent has been given a job, or it is its own log; None where no such job is known."""
        ...

    def newest(self) -> Iterator[Job]:
        """All that are known now, newest first. Other greenlets may run meanwhile."""
        ...

    def ids(self) -> Iterator[str]:
        """Of all that are known now. Other greenlets may run meanwhile."""
        ...

    def running_on(self, key: AgentKey) -> list[Assignment]:
        """What an agent has been given and not ended."""
        ...

    def take_expired(self) -> Iterable[Job]:
        """Unfinished jobs that were to be started by now, each once."""
        ...

    def refused(self) -> Iterable[Assignment]:
        """Those with a DUPILICATE_ID result that is held back."""
        ...

    def lock(self, key: str | Assignment) -> AbstractContextManager[None]:
        """Held by who changes an assignment, or makes the job of that id or adds an assignment to it.

        Not reentrant. Who needs both takes that of the id first.
        """
        ...

    def new(self, job_id: str, command: str, brief: Brief, target: Target, **values: Any) -> Job:
        """A job nobody knows before ``add``; who makes it holds the lock of its id until then."""
        ...

    def add(self, job: Job) -> None:
        """Stores a new job with its assignments and what results they have."""
        ...

    def extend(self, job: Job, added: list[Assignment]) -> None:
        """Stores further assignments of a job."""
        ...

    def update(self, assignment: Assignment, **changes: Any) -> None:
        """Changes an assignment."""
        ...

    def update_all(self, changes: Mapping[Assignment, dict[str, Any]]) -> None:
        """Changes several assignments in one go."""
        ...

    def expand(self, assignment: Assignment, agent: AgentKey, added: Sequence[Assignment]) -> None:
        """One of a fan-out that waited for its first agent is for that one, others of its job are added."""
        ...

    def stop_waiting(self, job: Job) -> None:
        """The agent has come: the job does not end for want of it any more."""
        ...

    def note_waiting(self, job_id: str, key: AgentKey, waits: bool) -> None:
        """See ``Job.note_waiting``."""
        ...

    def hold_refusal(self, assignment: Assignment, result: Result) -> None:
        """Stores a DUPILICATE_ID result that does not count yet; the next result takes its place."""
        ...

    def record(self, assignment: Assignment, result: Result, state: str) -> None:
        """Adds a result; ``state`` is what it makes of the assignment."""
        ...

    def is_repeat(self, assignment: Assignment, result: Result) -> bool:
        """Whether the agent has given this result before."""
        ...

    def announce(self, job_ids: Iterable[str]) -> None:
        """Something of these jobs that is not kept with them has changed: their lines, say."""
        ...

    def trim(self) -> None:
        """Drops finished jobs that are too old or too many, oldest first."""
        ...

    def trim_adopted(self, key: AgentKey) -> None:
        """Drops the oldest adopted jobs where an agent has too many, or all together."""
        ...

    def forget(self, drop: Sequence[Job]) -> None:
        """Forgets jobs that are adopted or have ended."""
        ...

    def listen(self, listener: Listener) -> None:
        """``listener`` is told of each change of a job that was stored, and when one is forgotten."""
        ...


class Lines(Protocol):
    """The newest lines of all jobs, by job."""

    @property
    def run(self) -> str:
        """Numbers of lines count as long as this is the same."""
        ...

    def take(self, key: AgentKey, records: list[Record], has_part: Callable[[str], bool | None]) -> set[str]:
        """Takes a batch an agent posted; returns the known jobs that have new lines.

        Other greenlets run meanwhile. ``has_part``: see ``Jobs.has_part``.
        """
        ...

    def read(
        self, jobid: str, after: int, limit: int, agents: Container[AgentKey | None] | None = None
    ) -> tuple[list[Line], int]:
        """Up to ``limit`` lines numbered above ``after``, and how many of the job were dropped.

        ``agents``: those whose lines count; None for all.
        """
        ...

    def knows(self, jobid: str) -> bool:
        """True when lines of the job came."""
        ...


class OpenTexts(Protocol):
    """What jobs have begun to print, the newest of all agents."""

    def take(self, key: AgentKey, shown: Iterable[Shown], has_part: Callable[[str], bool | None]) -> set[str]:
        """Returns the jobs of which something came. Of jobs that the agent has no part in nothing is taken."""
        ...

    def of(self, jobid: str, agents: Iterable[AgentKey]) -> list[OpenText]:
        """What is open of a job on these agents."""
        ...


class Metrics(Protocol):
    """The newest value of every statistics key of every agent."""

    def take(self, key: AgentKey, points: list[Point]) -> None:
        """Takes a batch an agent posted. Other greenlets run meanwhile."""
        ...

    def newly_dropped(self) -> dict[AgentKey, int]:
        """How many figures were dropped of each agent that was not given before."""
        ...

    def describe(self) -> Iterator[str]:
        """Parts of the JSON text of a list: by agent, each key with its stamp, value and the interval it comes in."""
        ...


class Scripts(Protocol):
    """Scripts by hash, for a day after they were last stored."""

    def store(self, script: Script) -> str:
        """Keeps a script and returns its hash. One that is known is never replaced by another. Raises StateError."""
        ...

    def get(self, digest: str) -> str | None:
        """The text of a script."""
        ...
