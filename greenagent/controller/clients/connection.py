"""The Redis between the original clients and this controller: one controller at a time serves them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import gevent
import gevent.event
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from greenagent.runtime.agent_log import AgentLog
from greenagent.values import levels
from greenagent.values.errors import GreenagentError
from greenagent.values.text import hide_passwords

Command = tuple[Any, ...]
"""A command of Redis and its arguments."""

PREFIX: Final = "greenagent:clients:"
"""So begin the keys that are ours alone."""
HOLDER: Final = PREFIX + "holder"
"""Which controller serves the clients, for as long as it says so again and again."""
TIMEOUT: Final = 10.0
"""Seconds for an answer."""
BLOCK: Final = 5
"""Seconds for which a list is waited for: less than ``TIMEOUT``."""
PART: Final = 20_000
"""Words that are written in one go, about: Redis does nothing else meanwhile."""
OUTAGES: Final = (redis.RedisError, OSError)
"""What is raised where Redis does not answer, or not as it should."""

# Another controller may have become the holder while this one stood still: each write asks. A key of the wrong type,
# which somebody else has made, would keep all that follows from being written: it is passed over and told.
_WRITE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local at, wrong = 2, 0
while at <= #ARGV do
    local command = {}
    for number = 1, tonumber(ARGV[at]) do command[number] = ARGV[at + number] end
    at = at + 1 + tonumber(ARGV[at])
    local answer = redis.pcall(unpack(command))
    if type(answer) == 'table' and answer.err then
        if not string.find(answer.err, 'WRONGTYPE') then return answer end
        wrong = wrong + 1
    end
end
return wrong
"""
_KEEP: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_LEAVE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
_MOVE: Final = """
local found, length = {}, 0
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return found end
while #found < tonumber(ARGV[2]) and length < tonumber(ARGV[3]) do
    local element = redis.call('LMOVE', KEYS[2], KEYS[3], 'LEFT', 'RIGHT')
    if not element then break end
    found[#found + 1] = element
    length = length + #element
end
return found
"""
_DIGESTS: Final = """
local found = {}
for at = 1, #ARGV, 2 do
    local answer = redis.pcall('HGET', ARGV[at], ARGV[at + 1])
    found[#found + 1] = type(answer) == 'string' and redis.sha1hex(answer) or ''
end
return found
"""


class UrlError(GreenagentError):
    """A URL that is none of a Redis."""


class NotHolderError(GreenagentError):
    """Another controller serves the clients now, or Redis has forgotten that this one does."""


class ClientsRedis:
    """The connections of one controller. Methods raise ``OUTAGES``."""

    def __init__(self, url: str, log: AgentLog, lease: float) -> None:
        """``lease``: seconds after which another controller may take the place of one that says nothing.

        Raises UrlError. Whether Redis is there is found out later.
        """
        shown = hide_passwords(url.partition("?")[0])  # there may be a password in what follows
        self.name = f"the Redis of the original clients ({shown})"
        self._token = uuid.uuid4().hex
        self._lease = lease
        self._kept = 0.0
        """When it was said last that this controller serves them (monotonic)."""
        self._odd = log.rate_limited()
        try:
            self._client: Any = redis.Redis.from_url(
                url,
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
                retry=Retry(NoBackoff(), 0),
                protocol=2,  # the later one needs a newer server
            )
        except ValueError as error:
            raise UrlError(f"--original-clients {shown}: {error}") from error
        self._write = self._client.register_script(_WRITE)
        self._keep = self._client.register_script(_KEEP)
        self._leave = self._client.register_script(_LEAVE)
        self._move = self._client.register_script(_MOVE)
        self._digests = self._client.register_script(_DIGESTS)

    def become_holder(self) -> bool:
        """Whether this controller serves the clients from now on."""
        asked = time.monotonic()
        if self._client.set(HOLDER, self._token, nx=True, px=int(self._lease * 1000)):
            self._kept = asked
            return True
        return self._stays_holder()

    def _stays_holder(self) -> bool:
        asked = time.monotonic()
        is_ours = bool(self._keep(keys=[HOLDER], args=[self._token, int(self._lease * 1000)]))
        self._kept = asked if is_ours else self._kept
        return is_ours

    def stay_holder(self) -> None:
        """For ever: says again and again that this controller serves them.

        Raises NotHolderError, also where nobody does: Redis has forgotten everything then.
        """
        while True:
            gevent.sleep(self._lease / 4)
            if not self._stays_holder():
                raise self._not_holder()

    def require_holder(self) -> None:
        """Raises NotHolderError where another controller may serve the clients by now; asks nobody."""
        if time.monotonic() - self._kept > self._lease:
            raise self._not_holder()

    def leave(self) -> None:
        """Lets another controller serve them at once."""
        self._leave(keys=[HOLDER], args=[self._token])

    def write(self, commands: Iterable[Command]) -> None:
        """Runs commands as the holder, in one go as far as they are not too many. Raises NotHolderError."""
        arguments: list[Any] = [self._token]
        for command in commands:
            arguments += (len(command), *command)
            if len(arguments) > PART:
                self._run(arguments)
                arguments = [self._token]
        if len(arguments) > 1:
            self._run(arguments)

    def _run(self, arguments: list[Any]) -> None:
        wrong = self._write(keys=[HOLDER], args=arguments)
        if wrong == -1:
            raise self._not_holder()
        if wrong:
            text = f"{wrong} keys of {self.name} are of another type than the original clients': not written"
            self._odd.log(levels.WARNING, text)

    def take(self, queue: str, into: str) -> bytes | None:
        """The oldest element of a list, which is moved to the end of another; None where none came for a while."""
        element: bytes | None = self._client.blmove(queue, into, BLOCK, "LEFT", "RIGHT")
        return element

    def all_of(self, key: str) -> list[bytes]:
        """A list, from its beginning."""
        found: list[bytes] = self._client.lrange(key, 0, -1)
        return found

    def take_more(self, queue: str, into: str, most: int, length: int) -> list[bytes]:
        """Elements that are there already, moved in the same way, of about ``length`` bytes together at most."""
        found: list[bytes] = self._move(keys=[HOLDER, queue, into], args=[self._token, most, length])
        return found

    def text(self, key: str) -> str:
        """ "" where there is none."""
        kept: bytes | None = self._client.get(key)
        return "" if kept is None else kept.decode("utf-8", "replace")

    def _not_holder(self) -> NotHolderError:
        return NotHolderError(f"another controller may serve the clients of {self.name}")

    def exist(self, keys: Sequence[str]) -> list[bool]:
        """Which of the keys there are."""
        pipe = self._client.pipeline(transaction=False)
        for key in keys:
            pipe.exists(key)
        return list(map(bool, pipe.execute()))

    def digests(self, fields: Sequence[tuple[str, str]]) -> list[str]:
        """The sha1 of each field of a hash, in hexadecimal; "" where there is none. The values may be large."""
        found = self._digests(args=[word for field in fields for word in field])
        return [digest.decode() for digest in found]

    def weakness(self) -> str:
        """Why what Redis has taken may be lost where it is killed; "" where it cannot be, or does not tell."""
        try:
            found = {name: self._client.config_get(name).get(name, "") for name in ("appendonly", "appendfsync")}
        except redis.ResponseError:
            return ""  # it may not be asked
        said = {name: text.decode() if isinstance(text, bytes) else text for name, text in found.items()}
        if said["appendonly"] == "yes" and said["appendfsync"] == "always":
            return ""
        shown = ", ".join(f"{name} {text}" for name, text in said.items() if text)
        return f"{self.name} may lose commands and results where it is killed ({shown}; appendfsync always loses none)"

    def close(self) -> None:
        self._client.close()


def until_it_fails(functions: Iterable[Callable[[], None]]) -> None:
    """Runs functions that never end at once, and raises what the first of them raises."""
    failed = gevent.event.AsyncResult()

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except Exception as error:
            failed.set_exception(error)

    greenlets = [gevent.spawn(run, function) for function in functions]
    try:
        failed.get()
    finally:
        gevent.killall(greenlets)
