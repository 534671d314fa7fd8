"""The way from the hub into the writer's thread: with message ids, in order, and held back while it is behind."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from gevent.event import Event

from greenagent.logs.console import Console
from greenagent.logs.lines import LAST_ID, Lines
from greenagent.logs.runs import RunRecord
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.files import FileId, refuse_link, replace_file
from greenagent.runtime.native import NativeWorker
from greenagent.runtime.plain_files import UnfitFileError, read_plain
from greenagent.values.errors import GreenagentError

BLOCK: Final = 100_000
_MANY: Final = 10
"""Blocks reserved at once while ids are used up faster than one block a second."""
SIZE_LIMIT: Final = 4096
"""Bytes of a message id file; ours has ten digits."""
CAPACITY: Final = 2 << 20
"""Bytes that may wait for the writer before the pipes are held back."""
ROOM_AT_ONCE: Final = 1 << 20
"""Bytes beyond that for what the agent itself has to say."""
RUN_DELAY: Final = 0.2
"""Seconds for which the record of a run waits for lines to go with."""

Task = Callable[[], Any]


class MessageIds:
    """Message ids: unsigned 32 bits, reserved in blocks, never given twice until they wrap (protocol 6.4). On the hub.

    The file holds, as decimal text, the last id of what is reserved; after a clean stop the last one used. It is
    replaced and on disk before the first id of a block is given out; ``run_soon(function)`` does that in the writer's
    thread.
    """

    def __init__(
        self,
        path: Path,
        run_soon: Callable[[Callable[[], None]], None],
        post: Callable[[Callable[[], None]], None],
        warn: Callable[[str], None],
    ) -> None:
        self.path = path
        self.written: FileId | None = None
        """The file as it was written last."""
        self._run_soon = run_soon
        self._post = post
        self._warn = warn
        self._next = 0
        self._left = 0
        self._asked = 0
        self._asked_at = 0.0
        self._granted = Event()
        self._said = False
        self._has_ended = False
        self._record: Callable[[int], None] = lambda last: None

    def start(self, newest: int, recorded: int = 0, record: Callable[[int], None] = lambda last: None) -> None:
        """Reads the file and reserves the first block at once. ``newest``: the newest line's id, -1 if none.

        ``record`` keeps outside of the file what that holds, ``recorded`` is what it was given last, 0 for nothing:
        file and databases may both be put back to what they were earlier. Raises OSError where the file cannot be
        written, GreenagentError where it is a link or no file at all.
        """
        refuse_link(self.path, "main.message_id_file:")
        self._record = record
        what = "the newest log line"
        if recorded and (newest < 0 or _is_later(recorded, newest)):
            newest, what = recorded, "the ids that were given before"
        last, known = self._read(), True
        if last is None:
            known = False
        elif newest >= 0 and _is_later(newest, last):
            self._warn(f"{self.path} is behind {what}: ids go on after {newest}")
            known = False
        if not known:
            last = (newest + BLOCK) & LAST_ID if newest >= 0 else 0
        assert last is not None
        self._next = (last + 1) & LAST_ID
        self._left = 0
        end = (last + BLOCK) & LAST_ID
        self.store(end)
        self._left = BLOCK

    def _read(self) -> int | None:
        try:
            text = read_plain(self.path, SIZE_LIMIT).strip()
        except FileNotFoundError:
            return None
        except UnfitFileError as error:
            if error.errno != errno.EFBIG:
                raise GreenagentError(f"main.message_id_file: cannot read {self.path}: {error.strerror}") from error
            text = b""
        if text.isdigit() and len(text) <= 10 and int(text) <= LAST_ID:
            return int(text)
        self._warn(f"{self.path} does not hold a message id: ids go on after the newest log line")
        return None

    @property
    def left(self) -> int:
        """How many ids can be taken now."""
        return self._left

    def take(self, count: int) -> int:
        """The first of ``count`` consecutive ids; never more than ``left``."""
        if count > self._left:
            raise ValueError(f"{count} ids asked, {self._left} reserved")
        first = self._next
        self._next = (first + count) & LAST_ID
        self._left -= count
        if self._left < BLOCK // 2:
            self._reserve(0)
        return first

    def wait_for(self, count: int) -> None:
        """Blocks the greenlet until ``count`` ids can be taken (somebody else may take them first).

        Raises GreenagentError once no more are reserved: the writer's thread has ended.
        """
        while self._left < count:
            if self._has_ended:
                raise GreenagentError("no message ids are reserved any more: the log writer has stopped")
            self._reserve(count)
            self._granted.clear()
            self._granted.wait()

    def end(self) -> None:
        """The thread that reserves has died: whoever waits is woken."""
        self._has_ended = True
        self._granted.set()

    def last_used(self) -> int:
        return (self._next - 1) & LAST_ID

    def store_last_used(self) -> None:
        """At a clean stop, in any thread: nothing reserved is wasted. Raises OSError."""
        self.store(self.last_used())

    @property
    def reserved_to(self) -> int:
        """The last id of what is reserved, or is being reserved now."""
        return (self._next + self._left + self._asked - 1) & LAST_ID

    def store(self, last: int) -> None:
        """In the writer's thread, once the ids are in use. Raises OSError."""
        self.written = replace_file(self.path, str(last).encode("ascii"))
        with suppress(OSError):  # a second guard
            self._record(last)

    def _reserve(self, count: int) -> None:
        if self._asked:
            return
        now = time.monotonic()
        blocks = _MANY if now - self._asked_at < 1 else 1
        self._asked_at = now
        self._asked = max(blocks * BLOCK, count)
        end = (self._next + self._left + self._asked - 1) & LAST_ID
        self._run_soon(lambda: self._write(end))

    def _write(self, end: int) -> None:
        problem = ""
        try:
            self.store(end)
        except OSError as error:
            problem = f"{self.path} cannot be written ({error}): ids go on from memory"
        self._post(lambda: self._grant(problem))

    def _grant(self, problem: str) -> None:
        """On the hub. A file that cannot be written must not stop the jobs: the newest line's id is a second guard."""
        self._left += self._asked
        self._asked = 0
        self._granted.set()
        if problem and not self._said:
            self._warn(problem)
        self._said = bool(problem)


def _is_later(one: int, other: int) -> bool:
    """Of two ids, which wrap."""
    return 0 < (one - other) & LAST_ID < 1 << 31


class Intake:
    """Lines and tasks for the writer's thread, which handles them in the order in which they were handed in.

    ``post`` and ``warn`` may be called from any thread, everything else on the hub's.
    """

    def __init__(self, message_id_file: Path, agent_log: AgentLog, console: Console | None) -> None:
        self.console = console
        self.ids = MessageIds(message_id_file, self.soon, self.post, agent_log.warning)
        self.dropped = 0
        """Lines of any job that were counted instead of stored or sent."""
        self._agent_log = agent_log
        self._worker: NativeWorker[Lines | RunRecord | Task] | None = None
        self._is_closing = False

    def start(self, handle: Callable[[Sequence[Lines | RunRecord | Task]], None]) -> None:
        """Starts the thread in which ``handle`` gets all that waits, batch by batch. Raises NoThreadError."""
        self._worker = NativeWorker("log writer", handle, capacity=CAPACITY, on_failure=self._failed)

    def stop(self, last: Task | None = None) -> None:
        """Handles what waits, then ``last``, and ends the thread."""
        self._is_closing = True
        if self._worker is None:
            return
        try:
            if last is not None and self._worker.is_alive:
                self._worker.call(last)
        except GreenagentError:
            pass  # it died just now, and said so
        self._worker.stop()
        self._worker = None

    @property
    def thread(self) -> NativeWorker[Lines | RunRecord | Task] | None:
        """For the watchdog; None while it is not started."""
        return self._worker

    @property
    def is_alive(self) -> bool:
        return self._worker is not None and self._worker.is_alive

    @property
    def weight(self) -> int:
        """Bytes that wait for the writer."""
        return self._worker.weight if self._worker is not None else 0

    @property
    def takes_at_once(self) -> bool:
        """True when a line can be handed over that cannot wait; a queue that jobs have filled has room for it."""
        return self.is_alive and not self._is_closing and self.weight < CAPACITY + ROOM_AT_ONCE and self.ids.left > 0

    def wait_for_room(self, count: int) -> None:
        """Blocks until the writer keeps up and ``count`` ids can be taken, both at once.

        Raises GreenagentError when the writer has ended.
        """
        while True:
            worker = self._running
            worker.wait_room()
            if worker.failure is not None:
                raise GreenagentError(f"the log writer has stopped: {worker.failure}")
            if self._is_closing:
                raise GreenagentError("the log store is closed")
            if self.ids.left >= count:
                return
            self.ids.wait_for(count)

    def put(self, lines: Lines, weight: int) -> None:
        """Hands lines over; call after ``wait_for_room`` without yielding."""
        self._running.put_now(lines, weight)

    def put_run(self, record: RunRecord) -> None:
        """Hands over the record of a run, with the next lines or after a moment; never waits."""
        try:
            self._running.put_later(record, RUN_DELAY)
        except RuntimeError:
            pass  # the writer has ended, and said so

    def call(self, task: Task) -> Any:
        """Runs a task after all that waits; returns or raises what it does, GreenagentError if there is no thread."""
        return self._running.call(task)

    def soon(self, task: Task) -> None:
        """Runs a task of which nobody awaits the answer; it must not raise."""
        self._running.put_now(task)

    def post(self, function: Callable[[], None]) -> None:
        """Runs a function on the hub."""
        self._running.post(function)

    def warn(self, text: str) -> None:
        """Says something."""
        self.post(lambda: self._agent_log.warning(text))

    @property
    def _running(self) -> NativeWorker[Lines | RunRecord | Task]:
        if self._worker is None:
            raise GreenagentError("the log store is not running")
        return self._worker

    def _failed(self, error: BaseException) -> None:
        self.ids.end()
        self._agent_log.error(f"internal error in the log writer: {type(error).__name__}: {error}; please report this")
