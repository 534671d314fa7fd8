"""Times and sizes the controller keeps to; tests shorten them, the command line sets what to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Times are in seconds, sizes in bytes."""

    poll: float = 50.0
    """How long a poll waits for a command at the most: original agents give up after 60 s, and one that is just being
    answered then would be lost (protocol 1.3)."""
    full_poll: float = 2.0
    """How long the poll of an agent without a free slot waits: the next one tells how many are free then."""
    live: float = 30.0
    """An agent is live while a poll is open and this long after (protocol 12.3)."""
    unacknowledged: float = 600.0
    """A job ends with ERROR when its agent has been away this long without acknowledging the delivery."""
    refusal: float = 5.0
    """How long a DUPILICATE_ID is held back: the true result of the id may be on its way."""
    shared: float = 5.0
    """Two polls of one agent open for this long are logged: there may be two agents of that identity."""
    keep_jobs: int = 10_000
    """How many finished jobs are kept."""
    keep_for: float = 86_400.0
    """How long a finished job is kept."""
    keep_least: float = 10.0
    """A finished job younger than this is kept whatever ``keep_jobs`` and ``keep_for`` say: clients still poll it."""
    keep_bytes: int = 256 * MIB
    """Commands and results of finished jobs."""
    unfinished_jobs: int = 100_000
    """More unfinished jobs than this are refused."""
    unfinished_bytes: int = 512 * MIB
    """Commands and results of unfinished jobs; above it new jobs are refused."""
    adopted_jobs: int = 1000
    """Jobs kept that this controller did not post, or has forgotten, and of which a result came."""
    adopted_per_agent: int = 100
    """As many of one agent."""
    adopted_bytes: int = 64 * MIB
    """The results of these."""
    results_per_agent: int = 20
    """Results kept of a recurring job, the newest of each agent."""
    agents: int = 20_000
    """Agents remembered."""
    roles: int = 64 * MIB
    """The roles of all agents, with all they cost in memory; above it those go that take most."""
    log_bytes: int = 128 * MIB
    """Uploaded log lines kept in memory, with all they cost there."""
    stray_lines: int = 1000
    """Uploaded lines of one agent kept of jobs that it has no part in, or that nobody knows."""
    log_lines_per_job: int = 100_000
    """Uploaded log lines kept of one job, a number."""
    open_text_bytes: int = 16 * MIB
    """What jobs have begun to print, with all it costs in memory."""
    metrics_per_agent: int = 20_000
    """Statistics keys kept of one agent."""
    metrics_bytes: int = 64 * MIB
    """Statistics kept of all agents."""
    script_age: float = 86_400.0
    """How long a script is kept after it was last stored (protocol 10.4)."""
    script_bytes: int = 64 * MIB
    """All scripts."""
    result_body: int = 64 * MIB
    """One posted result."""
    log_body: int = 100 * MIB
    """One posted batch of log lines: a line of 16 MiB, the longest, is six times as long in JSON at the worst."""
    stats_body: int = 16 * MIB
    """One posted batch of statistics."""
    event_body: int = 64 * 1024
    """One posted event."""
    job_body: int = 32 * MIB
    """One posted command."""
    script_body: int = 4 * MIB
    """One posted script."""
    schedules: int = 10_000
    """Schedules kept, a number."""
    schedule_command: int = MIB
    """The command of one, in characters of its JSON text."""
    bodies: int = 256 * MIB
    """All bodies that are just coming."""
    slow_body: float = 30.0
    """A body that takes longer than this has to come with 8 KiB a second on the whole."""
    handshake: float = 10.0
    """A TLS handshake has to be over by then."""
    heads: int = 64 * MIB
    """Heads of requests in work, with all they cost in memory; above it large ones are refused. A parked poll holds
    none."""
    head: float = 15.0
    """The head of a request has to be complete by then, from its first byte, or from the connection's beginning."""
    connections: int = 20_000
    """Open connections; fewer where the limit of open files is lower."""
    unasked_per_address: int = 64
    """Connections of one address without a complete request yet that are older than ``unasked_for``."""
    unasked_for: float = 3.0
    idle: float = 120.0
    """A connection that neither sends nor takes anything for this long is closed."""
    clients_lease: float = 10.0
    """A controller that serves original clients and says nothing for this long is replaced by another."""
    clients_log: int = 10_000
    """Commands in the list of all commands that clients of the first generation read, a number."""
    clients_set_aside: int = 1000
    """Elements kept of the clients' queues that are no commands, a number."""
