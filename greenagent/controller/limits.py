"""Times and sizes the controller keeps to; tests shorten them, the command line sets what to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds unless said otherwise."""

    poll: float = 60.0
    """How long a poll waits for a command (protocol 1.3)."""
    full_poll: float = 2.0
    """How long the poll of an agent without a free slot waits, so that the next can tell better."""
    live: float = 30.0
    """An agent is live while a poll is open and so long after (protocol 12.3)."""
    unacknowledged: float = 600.0
    """So long not live after a delivery it did not acknowledge: the job ends ERROR."""
    refusal: float = 5.0
    """How long a DUPILICATE_ID is held back: the true result of the id may be on its way."""
    shared: float = 5.0
    """Two polls of one agent open for so long are said: there may be two agents of that identity."""
    keep_jobs: int = 10_000
    """How many finished jobs are kept."""
    keep_for: float = 86_400.0
    """How long a finished job is kept."""
    keep_least: float = 10.0
    """So long a finished job is kept whatever the two above say: whoever waits for it comes back to ask."""
    keep_bytes: int = 256 * MIB
    """Bytes of commands and results of finished jobs."""
    unfinished_jobs: int = 100_000
    """More unfinished jobs than this are refused."""
    unfinished_bytes: int = 512 * MIB
    """Bytes of the commands and results of unfinished jobs; above it new jobs are refused."""
    results_per_agent: int = 20
    """Results kept of a recurring job, newest, for each agent."""
    agents: int = 20_000
    """Agents remembered."""
    log_bytes: int = 64 * MIB
    """Bytes of uploaded log lines kept in memory."""
    log_lines_per_job: int = 100_000
    """Uploaded log lines kept of one job."""
    figures_per_agent: int = 20_000
    """Statistics keys kept of one agent."""
    script_age: float = 86_400.0
    """How long a script is kept after it was last stored (protocol 10.4)."""
    script_bytes: int = 64 * MIB
    """Bytes of all scripts."""
    result_body: int = 64 * MIB
    """Bytes of one posted result."""
    log_body: int = 64 * MIB
    """Bytes of one posted batch of log lines."""
    stats_body: int = 16 * MIB
    """Bytes of one posted batch of statistics."""
    event_body: int = 64 * 1024
    """Bytes of one posted event."""
    job_body: int = 32 * MIB
    """Bytes of one posted command."""
    script_body: int = 4 * MIB
    """Bytes of one posted script."""
    handshake: float = 10.0
    """A TLS handshake has to be over by then."""
    idle: float = 120.0
    """A connection that neither sends nor takes anything for so long is closed."""
