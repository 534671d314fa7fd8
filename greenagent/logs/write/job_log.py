"""The log of one job: its messages get their route, level by level, their stamp and their id here, on the hub."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from gevent.event import Event

from greenagent.logs.lines import MIXED, Block, Lines, Mixed, OpenLine, Owner, Piece, byte_size
from greenagent.logs.write.intake import Intake
from greenagent.logs.write.open_lines import Marked, OpenStream, Source
from greenagent.values import levels
from greenagent.values.levels import LevelSet
from greenagent.values.message import Message
from greenagent.values.text import storable

_SAY_EVERY: Final = 60.0
_OVERHEAD: Final = 64
"""What one message weighs beside its text, in the queue to the writer."""

_CACHED: Final = 256
"""A job may print any number as a level; only so many answers are remembered, and so many levels counted apart."""
OTHERS: Final = 0
"""Stands for all further levels where lines are counted."""


class Route(NamedTuple):
    """What happens to one level of one job.

    ``process`` false: the message is dropped and gets no id. ``keep``: it belongs in table ``logs``.
    ``marks``: the bits of the upload pairs that want it. ``console``: it is shown on stdout.
    """

    process: bool
    keep: bool
    marks: int
    console: bool


DROPPED: Final = Route(False, False, 0, False)


class Routes:
    """The decisions for one job; immutable, replaced as a whole when settings change.

    Level sets are None where every level is meant. ``log_flush`` (seconds, 0 = as configured):
    batches that hold this job's lines go out within so long.
    """

    def __init__(
        self,
        *,
        loglevels: LevelSet | None = None,
        keep: bool = True,
        database: LevelSet | None = None,
        pairs: Sequence[tuple[int, LevelSet | None]] = (),
        consoles: Sequence[LevelSet | None] = (),
        log_flush: float = 0.0,
    ) -> None:
        """``pairs``: the bit of each AC logger and controller, with the levels it wants of this job."""
        self._loglevels = loglevels
        self._keep = keep
        self._database = database
        self._pairs = tuple(pairs)
        self._consoles = tuple(consoles)
        self.log_flush = log_flush
        self._cache: dict[int, Route] = {}

    def for_level(self, level: int) -> Route:
        """The route of messages of this level."""
        route = self._cache.get(level)
        if route is None:
            route = self._decide(level)
            if len(self._cache) < _CACHED:
                self._cache[level] = route
        return route

    def _decide(self, level: int) -> Route:
        if not _wants(self._loglevels, level):
            return DROPPED
        marks = 0
        for bit, wanted in self._pairs:
            if _wants(wanted, level):
                marks |= bit
        return Route(
            True,
            self._keep and _wants(self._database, level),
            marks,
            any(_wants(wanted, level) for wanted in self._consoles),
        )


def _wants(wanted: LevelSet | None, level: int) -> bool:
    return wanted is None or level in wanted


class JobLog:
    """Takes a job's pieces. ``routes`` may be replaced at any time; new messages follow the new ones."""

    def __init__(
        self,
        intake: Intake,
        owner: Owner,
        label: str,
        routes: Routes,
        max_bytes: int = 0,
        on_close: Callable[[JobLog], None] = lambda log: None,
        stirred: Event | None = None,
    ) -> None:
        """``label`` stands on its console lines; ``max_bytes`` is max_log_per_job, 0 for none.

        ``stirred`` is set when something may be open that was not: then ``look`` is to be called.
        """
        self.owner = owner
        self.routes = routes
        self._intake = intake
        self._label = label
        self._max_bytes = max_bytes
        self._on_close = on_close
        self._stirred = stirred or Event()
        self._bytes = 0
        self._over = 0
        self._over_said = -_SAY_EVERY
        self._capped = False
        self._open: list[OpenStream] = []
        self._shown: dict[int, Marked] = {}
        """By stream, the open text as it was last written; it counts while the stream has a row."""
        self._ended: tuple[int, ...] = ()
        """Streams whose open text is over, and became no line that is stored."""
        self.marked: dict[tuple[int, int], int] = {}
        """By set of upload pairs and level, how many lines went to them; under level 0 those of too many levels."""
        self.lost = 0
        """Messages that were to be stored, and could not be."""
        self.dropped = 0
        """Messages that were counted instead of stored, for whatever reason."""

    def append(self, pieces: Sequence[Piece]) -> None:
        """Stores messages in their order; blocks the greenlet while the writer is behind.

        Messages that the routes drop get no id (protocol 3.4). Level 101 is not for the log and is passed over.
        Called without any where all that was read is open yet.
        """
        if not self._stirred.is_set() and self.has_open:
            self._stirred.set()
        closes = tuple(stream.stream for stream in self._open if stream.ends())
        rows: list[tuple[int, str]] = []
        rows_route = DROPPED
        for piece in self._unmixed(pieces):
            if isinstance(piece, Message):
                route = self.routes.for_level(piece.level)
                if not route.process or piece.level == levels.PROCESS_ANNOUNCEMENT:
                    continue
                if rows and route != rows_route:
                    closes = self._put_rows(rows, rows_route, closes)
                    rows = []
                rows.append((piece.level, storable(piece.text)))
                rows_route = route
                continue
            if rows:
                closes = self._put_rows(rows, rows_route, closes)
                rows = []
            level = piece.level if isinstance(piece, Block) else next(iter(piece.levels))
            route = self.routes.for_level(level)
            if route.process:
                closes = self._put_block(piece, route, closes)
        if rows:
            closes = self._put_rows(rows, rows_route, closes)
        if closes:
            self._ended += closes
            self._stirred.set()  # a look may have come while this waited for room

    def _unmixed(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        """The same messages; mixed blocks stay whole only where one way and no cap is for all their levels."""
        for piece in pieces:
            if isinstance(piece, Mixed):
                routes = {self.routes.for_level(level) for level in piece.levels}
                if len(routes) > 1 or self._max_bytes:
                    yield from piece.messages()
                    continue
            yield piece

    def watch(self, sources: Mapping[int, Source]) -> None:
        """What these streams of the job have open is shown from now on, and that of no others."""
        self._ended += tuple(stream.stream for stream in self._open if stream.has_row)
        self._open = [OpenStream(self.owner, stream, source) for stream, source in sources.items()]
        if self.has_open:
            self._stirred.set()

    @property
    def has_open(self) -> bool:
        """Whether ``look`` may have anything to tell, now or later, though nothing more is printed."""
        return bool(self._ended) or any(stream.has_row or stream.is_open for stream in self._open)

    def look(self, file: object) -> tuple[list[OpenLine], list[tuple[str, int]]]:
        """Rows of open text to be written now, and the keys of those that are over; ``file`` as for ``OpenStream``."""
        written: list[OpenLine] = []
        for stream in self._open:
            if stream.is_stale() and stream.ends():
                self._ended += (stream.stream,)
            row = stream.look(file)
            if row is None:
                continue
            self._shown.pop(stream.stream, None)
            route = self.routes.for_level(row.level)
            if self._capped or not route.process or row.level == levels.PROCESS_ANNOUNCEMENT:
                continue
            row = row._replace(data=storable(row.data))
            self._shown[stream.stream] = Marked(route.marks, row)
            if route.keep:
                written.append(row)
        return written, self.over()

    def open_texts(self) -> list[Marked]:
        """What is open as it was last looked at."""
        return [self._shown[one.stream] for one in self._open if one.has_row and one.stream in self._shown]

    def over(self) -> list[tuple[str, int]]:
        """The keys of rows that no line will close; each is told once."""
        over = [(self.owner.jobid, stream) for stream in self._ended]
        self._ended = ()
        return over

    def say(self, level: int, text: str) -> None:
        """A message of the agent about the job: no cap leaves it out. Blocks as ``append`` does."""
        self.say_over()
        route = self.routes.for_level(level)
        if route.process:
            text = storable(text)
            self._intake.wait_for_room(1)
            self._hand_over(route, level, "", [(level, text)], 1, byte_size(text))

    def append_now(self, level: int, text: str) -> None:
        """One message, without ever waiting: it is counted as dropped when there is no room even for such."""
        if not self.try_append(level, text):
            self.count_dropped(1)

    def try_append(self, level: int, text: str, tells: int = 0) -> bool:
        """One message, without ever waiting; False when there is no room for it now. ``tells`` as in ``Lines``."""
        route = self.routes.for_level(level)
        if route.process:
            if not self._intake.takes_at_once:
                return False
            text = storable(text)
            self._hand_over(route, level, "", [(level, text)], 1, byte_size(text), tells)
        return True

    def close(self) -> None:
        """The job has ended: what its cap left out is said."""
        self.say_over()
        self.watch({})
        self._on_close(self)

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs to go on under the same cap; what the cap has left out so far is said first."""
        self.say_over()
        return {
            "bytes": self._bytes,
            "capped": self._capped,
            "dropped": self.dropped,
            "over_said": self._over_said,
            "lost": self.lost,
            "marked": [(*key, count) for key, count in self.marked.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what another image of the agent has counted; what it does not tell begins anew."""
        self._bytes = int(state.get("bytes", 0))
        self._capped = bool(state.get("capped", False))
        self.dropped = int(state.get("dropped", 0))
        self._over_said = float(state.get("over_said", -_SAY_EVERY))
        self.lost = int(state.get("lost", 0))
        for marks, *level, count in state.get("marked", ()):  # an older image did not tell the level
            self.marked[marks, level[0] if level else OTHERS] = count

    def count_dropped(self, count: int) -> None:
        """So many messages of this job were not stored, or not sent."""
        self.dropped += count
        self._intake.dropped += count

    def count_lost(self, count: int) -> None:
        """So many messages of this job could not be stored."""
        self.lost += count
        self.count_dropped(count)

    def _put_block(self, block: Block | Mixed, route: Route, closes: tuple[int, ...]) -> tuple[int, ...]:
        """Returns those of ``closes`` that no line handed over has closed; so does ``_put_rows``."""
        size = byte_size(block.text)
        level = MIXED
        if isinstance(block, Block):
            level = block.level
            if self._max_bytes and (self._capped or self._bytes + size - block.count > self._max_bytes):
                return self._put_rows([(level, line) for line in block.lines()], route, closes)
            self._bytes += size - block.count
        self._intake.wait_for_room(block.count)
        counts = None if isinstance(block, Block) else block.levels
        return self._hand_over(route, level, block.text, (), block.count, size, closes=closes, counts=counts)

    def _put_rows(self, rows: list[tuple[int, str]], route: Route, closes: tuple[int, ...] = ()) -> tuple[int, ...]:
        if self._max_bytes:
            rows = self._within_cap(rows)
        if rows:
            self._intake.wait_for_room(len(rows))
            size = sum(byte_size(text) for _, text in rows)
            closes = self._hand_over(route, rows[0][0], "", rows, len(rows), size, closes=closes)
        if self._over and time.monotonic() - self._over_said >= _SAY_EVERY:
            self.say_over()
        return closes

    def _within_cap(self, rows: list[tuple[int, str]]) -> list[tuple[int, str]]:
        """What still fits under ``max_log_per_job``; once something did not, nothing does."""
        fitting = 0
        while not self._capped and fitting < len(rows):
            size = byte_size(rows[fitting][1])
            if self._bytes + size > self._max_bytes:
                self._capped = True
            else:
                self._bytes += size
                fitting += 1
        left_out = len(rows) - fitting
        self._over += left_out
        self.count_dropped(left_out)
        return rows[:fitting]

    def say_over(self) -> None:
        """Says what the cap has left out and nobody was told of yet."""
        if self._over:
            count, self._over = self._over, 0
            self._over_said = time.monotonic()
            cause = f"it passed max_log_per_job = {self._max_bytes} bytes"
            self.append_now(levels.WARNING, f"{count} lines of this job were not stored: {cause}")

    def _hand_over(
        self,
        route: Route,
        level: int,
        text: str,
        rows: Sequence[tuple[int, str]],
        count: int,
        size: int,
        tells: int = 0,
        closes: tuple[int, ...] = (),
        counts: Mapping[int, int] | None = None,
    ) -> tuple[int, ...]:
        """Nothing in here may yield: ids and the queue keep one order."""
        first_id = self._intake.ids.take(count)
        lines = Lines(
            self.owner,
            round(time.time(), 3),
            route.keep,
            route.marks,
            self.routes.log_flush,
            first_id,
            level,
            text,
            rows,
            count,
            size,
            tells,
            closes,
            counts,
        )
        if route.console and self._intake.console is not None:
            self._intake.console.show(self._label, lines)
        if route.marks:
            self._count(route.marks, lines)
        if route.keep or route.marks:
            self._intake.put(lines, size + _OVERHEAD * (len(rows) or 1))
            return ()
        return closes

    def _count(self, marks: int, lines: Lines) -> None:
        for level, count in lines.by_level().items():
            key = (marks, level)
            if key not in self.marked and len(self.marked) >= _CACHED:
                key = (marks, OTHERS)
            self.marked[key] = self.marked.get(key, 0) + count
