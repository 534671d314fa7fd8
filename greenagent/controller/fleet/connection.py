"""The Redis that all processes of a fleet's controller share: its keys, transactions with conditions, and news."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import gevent
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from greenagent.controller.state.state_file import ChangedError, StateError
from greenagent.runtime.agent_log import AgentLog
from greenagent.values.text import hide_passwords

T = TypeVar("T")
Command = tuple[Any, ...]
"""A command of Redis and its arguments."""
Condition = tuple[str, str, str, str]
"""What must be so: see ``same``, ``absent`` and ``present``."""

PREFIX: Final = "greenagent:"
NEWS: Final = PREFIX + "news"
"""The channel on which processes tell each other what has changed."""
CLOSE: Final = "CLOSE"
"""In a transaction: one assignment of a job has ended, and with the last one the job."""
CONNECTIONS: Final = 32
"""Of one process; more requests at a time wait for one. A Redis takes 10,000 of all its clients by default."""
TIMEOUT: Final = 10.0
"""Seconds for an answer, and for a connection."""
AGAIN: Final = 1.0
"""Seconds before the news are asked for again."""
PART: Final = 5000
"""Arguments of one transaction, about; Redis does nothing else meanwhile."""

_WRITE: Final = """
local at = 1
local function take()
    at = at + 1
    return ARGV[at - 1]
end
for _ = 1, tonumber(take()) do
    local kind, key, field, text = take(), take(), take(), take()
    if kind == 'same' and redis.call('HGET', key, field) ~= text then return 0 end
    if kind == 'absent' and redis.call('EXISTS', key) == 1 then return 0 end
    if kind == 'present' and redis.call('EXISTS', key) == 0 then return 0 end
end
while at <= #ARGV do
    local command = {}
    for number = 1, tonumber(take()) do command[number] = take() end
    if command[1] == 'CLOSE' then
        local key, id, now, keep, finished = command[2], command[3], command[4], command[5], command[6]
        if redis.call('HINCRBY', key, 'open', -1) == 0 then
            redis.call('HSET', key, 'finished', now)
            redis.call('ZADD', finished, now, id)
            redis.call('EXPIRE', key, keep)
        end
    else
        redis.call(unpack(command))
    end
end
return 1
"""


def same(key: str, field: str, text: str) -> Condition:
    """The field of the hash has this very text."""
    return ("same", key, field, text)


def absent(key: str) -> Condition:
    return ("absent", key, "", "")


def present(key: str) -> Condition:
    return ("present", key, "", "")


class FleetRedis:
    """One connection pool for all, and one connection that waits for news."""

    def __init__(self, url: str, log: AgentLog) -> None:
        """Raises StateError where it cannot be reached."""
        self.process = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        """This process's name among the others."""
        self._name = f"the Redis at {hide_passwords(url)}"
        self._trouble = log.on_change()
        self._listeners: dict[str, Callable[[str, bool], None]] = {}
        self._reconnected: list[Callable[[], None]] = []
        try:
            pool = redis.BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=TIMEOUT,
                decode_responses=True,
                encoding_errors="surrogatepass",
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
                health_check_interval=30,
                retry=Retry(NoBackoff(), 1),
            )
            self._client = redis.Redis(connection_pool=pool)
        except ValueError as error:
            raise StateError(f"--redis: {hide_passwords(url)}: {error}") from error
        self._write = self._client.register_script(_WRITE)
        self.call(lambda client: client.ping())

    def call(self, function: Callable[[Any], T]) -> T:
        """What ``function`` makes of the client. Raises StateError."""
        try:
            return function(self._client)
        except (redis.RedisError, OSError) as error:
            raise StateError(f"{self._name} cannot be used: {error}") from error

    def run(self, *command: Any) -> Any:
        """The answer to one command. Raises StateError."""
        return self.call(lambda client: client.execute_command(*command))

    def pipeline(self, commands: Iterable[Command]) -> list[Any]:
        """The answers to commands that are sent together. Raises StateError."""

        def send(client: Any) -> list[Any]:
            pipe = client.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            found: list[Any] = pipe.execute()
            return found

        return self.call(send)

    def write(self, conditions: Sequence[Condition], commands: Iterable[Command]) -> None:
        """Runs commands in one go if all the conditions hold. Raises ChangedError if not, and StateError."""
        arguments: list[Any] = [len(conditions)]
        for condition in conditions:
            arguments += condition
        for command in commands:
            arguments += (len(command), *command)
            if len(arguments) > PART:  # of a large fan-out: its job is there with the first part
                self._run(arguments)
                arguments = [0]
        if len(arguments) > 1:
            self._run(arguments)

    def _run(self, arguments: list[Any]) -> None:
        if not self.call(lambda _: self._write(args=arguments)):
            raise ChangedError("another process of the controller has changed it meanwhile")

    # -- news

    def listen(self, kind: str, listener: Callable[[str, bool], None]) -> None:
        """``listener`` gets the text of all news of a kind, and whether this process told them; it must not block."""
        self._listeners[kind] = listener

    def after_silence(self, listener: Callable[[], None]) -> None:
        """``listener`` is called once news come again after an outage: some may have been missed."""
        self._reconnected.append(listener)

    def news(self, kind: str, text: str) -> Command:
        """The command that tells all processes, this one too."""
        return ("PUBLISH", NEWS, f"{kind} {self.process} {text}")

    def hear(self) -> None:
        """Body of a service: hands out the news, for ever."""
        while True:
            try:
                self._hear()
            except (redis.RedisError, OSError) as error:
                self._trouble.warning(f"{self._name} cannot be used: {error}; it is tried again every second")
            gevent.sleep(AGAIN)

    def _hear(self) -> None:
        with self._client.pubsub() as channel:
            channel.subscribe(NEWS)
            while True:
                message = channel.get_message(timeout=TIMEOUT)
                if message is None:
                    channel.ping()
                elif message["type"] == "subscribe":
                    self._trouble.resolved(f"{self._name} can be used again")
                    for again in self._reconnected:
                        again()
                elif message["type"] == "message":
                    kind, process, text = message["data"].split(" ", 2)
                    if kind in self._listeners:
                        self._listeners[kind](text, process == self.process)

    def close(self) -> None:
        self._client.close()


def key_of(*parts: object) -> str:
    return PREFIX + ":".join(map(str, parts))


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
