"""What is uploaded: results and statistics from the outbox, log lines from behind a cursor of the log store."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import gevent

from greenagent.runtime.greenlets import TimeSlice
from greenagent.uplink.answer import Answer
from greenagent.uplink.delivery import MAX_BODY, Batch, Doubt
from greenagent.uplink.encoding import (
    ControllerLines,
    ControllerStatistics,
    Form,
    LineEncoding,
    StatisticsEncoding,
    encode,
)
from greenagent.uplink.health import Backoff, UplinkMetrics
from greenagent.values.command import read_early_id
from greenagent.values.message import Record
from greenagent.values.result import PendingBody

RESULTS_PAGE = 50
"""Results read from the outbox at a time."""
STATISTICS_BATCH = 1000
"""Objects in one post (protocol 8.4)."""
OUTBOX_WAIT = 10.0
"""Seconds after which the outbox is looked at anyway."""
PAGE_PAUSE = 0.01
BATCH_PAUSE = 0.02
"""Seconds between full pages and between lists: a backlog of hours must not starve polls and jobs."""
SETTLE_EVERY = 0.05
"""Seconds after which what was delivered is written down within a page: its answers may take long."""
ENCODE_SLICE = 100
"""Records turned into what is posted before others get their turn."""

DeadLetters = Callable[[str, str, bytes, int, str], None]
"""``(controller, path, body, status, answer)``: keeps a refused record for people to look at."""


class Outbox(Protocol):
    """The spool as uploaders see it. ``path`` is ``result`` or ``stats``."""

    def pending(self, controller: str, limit: int, after: int = 0, path: str = "result") -> list[PendingBody]:
        """The oldest that are not delivered, with rows above ``after``; at least one if there is any.

        May return fewer than ``limit`` to bound memory.
        """
        ...

    def delivered(self, controller: str, rows: list[int], path: str = "result") -> None:
        """The controller has accepted these: no later ``pending`` has them."""
        ...

    def make_dead_letter(self, controller: str, row: int, status: int, answer: str) -> bool:
        """The controller refuses this body: it is a dead letter and not pending any more.

        True where it is pending without its output, as a new row.
        """
        ...

    def wait(self, controller: str, timeout: float, path: str = "result") -> object:
        """Returns once something became pending since the last ``pending``, or after ``timeout`` seconds."""
        ...


class PendingLines(Protocol):
    """The lines of one AC logger that wait for one controller (logs.read.pending)."""

    name: str
    """Of the pair: ``logger/controller``."""

    def wait_due(self, batch_size: int, flush_int: float) -> None:
        """Returns once a batch is due: ``batch_size`` lines wait, or some when a period of ``flush_int`` s ends."""
        ...

    def read(self, limit: int) -> list[Record]:
        """The next lines behind the cursor, by ``seq``; may return fewer to bound memory."""
        ...

    def advance(self, seq: int) -> None:
        """Moves the cursor past ``seq``: stored soon."""
        ...


class Source(ABC):
    """What an uploader sends."""

    part: str
    """Names the work in what is logged about the controller."""
    vouches = True
    """Whether an acceptance shows that the controller takes results, so that a refusal is about the body."""

    def __init__(self, controller: str, metrics: UplinkMetrics) -> None:
        self._controller = controller
        self._metrics = metrics

    @abstractmethod
    def wait(self) -> None:
        """Returns once there may be something to send; may be interrupted anywhere."""

    @abstractmethod
    def next(self) -> list[Batch]:
        """The oldest that waits, bounded; several batches are independent of each other. Empty: nothing is due.

        Raises GreenagentError and sqlite3.Error where it cannot be read.
        """

    def settle(self) -> None:  # noqa: B027  not abstract: a log source has nothing to do, its store groups cursors itself
        """Writes down what was done since the last call: a commit each would slow short jobs down."""

    @abstractmethod
    def accepted(self, records: int) -> None:
        """Counts a post that was accepted."""

    def _rejected(self, records: int) -> None:
        self._metrics.rejected += records

    @abstractmethod
    def failed(self) -> None:
        """Counts a failure; the next ``next`` begins with the oldest again."""


class OutboxSource(Source):
    """What results and statistics have in common: rows of the outbox under one path."""

    def __init__(self, controller: str, outbox: Outbox, metrics: UplinkMetrics, path: str) -> None:
        super().__init__(controller, metrics)
        self._outbox = outbox
        self._path = path
        self._is_drained = False
        self._to_store: list[int] = []
        self._settled = 0.0
        """Monotonic time of the last ``settle`` that wrote something down."""

    def settle(self) -> None:
        if self._to_store:
            self._settled = time.monotonic()
            rows, self._to_store = self._to_store, []
            self._outbox.delivered(self._controller, rows, self._path)

    def _batch(self, rows: Sequence[PendingBody], bodies: Sequence[bytes]) -> Batch:
        dead: set[int] = set()

        def done(start: int, end: int) -> None:
            self._to_store += [one.row for one in rows[start:end] if one.row not in dead]
            if time.monotonic() - self._settled >= SETTLE_EVERY:
                self.settle()

        def dead_letter(index: int, answer: Answer) -> str:
            one = rows[index]
            dead.add(one.row)
            is_shortened = self._outbox.make_dead_letter(self._controller, one.row, answer.status, answer.text)
            self._metrics.set_aside += 1
            if one.path != "result":
                return f"a record posted to '{one.path}'"
            # Not ``one.id``: a dead letter that is tried again has one of its own.
            what = f"the result of job {read_early_id(one.body) or one.id}"
            return f"{what}, which is sent without its output" if is_shortened else what

        return Batch(Form(rows[0].path), bodies, done, dead_letter)


class ResultSource(OutboxSource):
    """The results that wait for one controller. One that is refused holds up no other."""

    part = "results"

    def __init__(
        self,
        controller: str,
        outbox: Outbox,
        metrics: UplinkMetrics,
        *,
        takes_lists: Callable[[], bool] = lambda: False,
        doubt_backoff: tuple[float, float] = (0.5, 30.0),
    ) -> None:
        """``takes_lists``: whether the controller takes the results of several jobs in one post.

        ``doubt_backoff``: first and longest delay in seconds for a single result answered 500.
        """
        super().__init__(controller, outbox, metrics, "result")
        self._takes_lists = takes_lists
        self._doubt_backoff = doubt_backoff
        self._doubts: dict[int, Doubt] = {}
        """By row. One that is not pending any more was settled."""
        self._after = 0
        self._is_full = False

    def wait(self) -> None:
        if not self._is_drained:
            gevent.sleep(PAGE_PAUSE if self._is_full else 0)
            return
        timeout = OUTBOX_WAIT
        if self._doubts:
            due = min(doubt.not_before for doubt in self._doubts.values())
            # The least is a guard: an outbox that returns at once must not make this a busy loop.
            timeout = min(OUTBOX_WAIT, max(0.05, due - time.monotonic()))
            gevent.sleep(0.05)
        self._outbox.wait(self._controller, timeout)

    def next(self) -> list[Batch]:
        """A page of the outbox, a batch for each job, or one for all where the controller takes them together.

        What was answered 500 comes last, once it is due again.
        """
        while page := self._outbox.pending(self._controller, RESULTS_PAGE, self._after):
            self._after = page[-1].row
            self._is_full = len(page) == RESULTS_PAGE
            jobs: dict[tuple[str, str], list[PendingBody]] = {}
            takes_lists = self._takes_lists()
            for one in page:
                if one.row not in self._doubts:
                    job = "" if takes_lists and one.path == "result" else one.id
                    jobs.setdefault((job, one.path), []).append(one)
            if jobs:
                self._is_drained = False
                return [self._results(rows) for rows in jobs.values()]
        self._after = 0
        again = self._in_doubt() if self._doubts else []
        self._is_drained = not again
        return again

    def _in_doubt(self) -> list[Batch]:
        now = time.monotonic()
        batches = []
        for row in [row for row, doubt in self._doubts.items() if doubt.not_before <= now][:RESULTS_PAGE]:
            found = self._outbox.pending(self._controller, 1, row - 1)
            if found and found[0].row == row:
                batches.append(self._results(found))
            else:
                del self._doubts[row]
        return batches

    def _results(self, rows: Sequence[PendingBody]) -> Batch:
        def doubt(index: int) -> Doubt:
            return self._doubts.setdefault(rows[index].row, Doubt(Backoff(*self._doubt_backoff)))

        batch = self._batch(rows, [one.body for one in rows])
        batch.doubt = doubt
        return batch

    def accepted(self, records: int) -> None:
        self._metrics.results_sent += records

    def failed(self) -> None:
        self._metrics.result_errors += 1
        self._after = 0
        self._is_drained = False


class StatisticsSource(OutboxSource):
    """The statistics that wait for one controller: each row is a list of one object, posted together with others."""

    part = "statistics"

    def __init__(
        self,
        controller: str,
        outbox: Outbox,
        metrics: UplinkMetrics,
        *,
        encoding: StatisticsEncoding | None = None,
        batch_size: int = STATISTICS_BATCH,
    ) -> None:
        """``encoding``: None for a controller's."""
        super().__init__(controller, outbox, metrics, "stats")
        self._encoding = encoding or ControllerStatistics()
        self.vouches = self._encoding.vouches
        self._batch_size = batch_size

    def wait(self) -> None:
        gevent.sleep(BATCH_PAUSE)
        if self._is_drained:
            self._outbox.wait(self._controller, OUTBOX_WAIT, self._path)

    def next(self) -> list[Batch]:
        while rows := self._outbox.pending(self._controller, self._batch_size, 0, self._path):
            self._is_drained = False
            taken, bodies = self._encode(rows)
            if bodies:
                batch = self._batch(taken, bodies)
                batch.form, batch.rejected = self._encoding.form(), self._rejected
                return [batch]
            self.settle()
        self._is_drained = True
        return []

    def _encode(self, rows: Iterable[PendingBody]) -> tuple[list[PendingBody], list[bytes]]:
        """As many of the rows as go out together: for a sink they are ten times as long. Empty ones are done."""
        pause, size = TimeSlice(), 0
        taken: list[PendingBody] = []
        bodies: list[bytes] = []
        for one in rows:
            body = self._encoding.encode(one.body, pause)
            size += len(body)
            if bodies and size > MAX_BODY:
                break
            if body:
                taken.append(one)
                bodies.append(body)
            else:
                self._to_store.append(one.row)
        return taken, bodies

    def accepted(self, records: int) -> None:
        self._metrics.statistics_sent += records

    def failed(self) -> None:
        self._metrics.statistics_errors += 1


class LogSource(Source):
    """The lines that one AC logger wants sent to one controller, behind their cursor; one list at a time, in order."""

    def __init__(
        self,
        controller: str,
        lines: PendingLines,
        batch_size: int,
        flush_int: float,
        dead_letters: DeadLetters,
        metrics: UplinkMetrics,
        *,
        formers: Sequence[tuple[int, str]] = (),
        encoding: LineEncoding | None = None,
        batch_pause: float = BATCH_PAUSE,
    ) -> None:
        """``batch_size`` in lines; ``flush_int`` and ``batch_pause`` in seconds.

        ``formers``: up to which line, ascending, another address counts (gid/nid); an empty one: nothing is sent.
        ``encoding``: None for a controller's.
        """
        super().__init__(controller, metrics)
        self.part = f"logs {lines.name}"
        self._lines = lines
        self._batch_size = batch_size
        self._flush_int = flush_int
        self._dead_letters = dead_letters
        self._formers = formers
        self._encoding = encoding or ControllerLines()
        self._batch_pause = batch_pause

    def wait(self) -> None:
        gevent.sleep(self._batch_pause)
        self._lines.wait_due(self._batch_size, self._flush_int)

    def next(self) -> list[Batch]:
        records = self._lines.read(self._batch_size)
        if not records:
            return []
        address = ""
        for until, former in self._formers:
            if records[0].seq <= until:
                records = [record for record in records if record.seq <= until]
                if not former:
                    self._lines.advance(records[-1].seq)
                    return self.next()
                address = former
                break
        bodies = self._encode(records)

        def done(start: int, end: int) -> None:
            self._lines.advance(records[end - 1].seq)

        def dead_letter(index: int, answer: Answer) -> str:
            # As a controller gets it, for people to read, and for a sink of another type to take after all.
            record, path = records[index], ControllerLines().form(address).path
            self._dead_letters(self._controller, path, encode([record.to_wire()]), answer.status, answer.text)
            self._metrics.set_aside += 1
            return f"a line of job {record.jobid}"

        return [Batch(self._encoding.form(address), bodies, done, dead_letter, rejected=self._rejected)]

    def accepted(self, records: int) -> None:
        self._metrics.log_batches_sent += 1
        self._metrics.log_lines_sent += records

    def failed(self) -> None:
        self._metrics.log_errors += 1

    def _encode(self, records: Sequence[Record]) -> list[bytes]:
        """Made in slices: a thousand at once would stall the hub for milliseconds."""
        texts = []
        for number, record in enumerate(records, 1):
            texts.append(self._encoding.encode(record.to_wire()))
            if number % ENCODE_SLICE == 0:
                gevent.sleep(0)
        return texts
