"""Serves the original clients, for as long as the controller runs and whatever their Redis does."""

from __future__ import annotations

from typing import Final

import gevent

from greenagent.controller.clients.connection import OUTAGES, ClientsRedis, NotHolderError, until_it_fails
from greenagent.controller.clients.intake import Intake
from greenagent.controller.clients.publisher import Publisher
from greenagent.controller.clients.wire import FIRST, LATER
from greenagent.controller.services import Services
from greenagent.controller.state.state_file import StateError

PAUSES: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before Redis is tried again, longer from time to time."""
LAST: Final = 2.0
"""Seconds for what is to be written at the end."""


class OriginalClients:
    """See docs/originals.md "The original clients in front of this controller"."""

    def __init__(self, url: str, services: Services) -> None:
        """Raises UrlError. Whether there is a Redis is found out later."""
        self._log = services.log
        self._lease = services.limits.clients_lease
        self._redis = ClientsRedis(url, services.log, self._lease)
        self._publisher = Publisher(self._redis, services.jobs)
        self._intakes = [
            Intake(
                generation,
                self._redis,
                self._publisher,
                services.submission,
                services.jobs,
                services.limits,
                services.log,
            )
            for generation in (LATER, FIRST)
        ]
        self._trouble = services.log.on_change()
        self._other = services.log.on_change()
        self._is_holder = False
        self._has_looked = False
        services.jobs.listen(self._note)

    def _note(self, job_id: str | None, number: int | None) -> None:
        if job_id is None:
            self._publisher.note_all()
        else:
            self._publisher.note(job_id, number)
        for intake in self._intakes:
            if job_id is None:
                intake.note_all()
            else:
                intake.note(job_id)

    def run(self) -> None:
        """Body of a service: for ever."""
        failures = 0
        while True:
            try:
                if self._redis.become_holder():
                    failures, self._is_holder = 0, True
                    until_it_fails([self._redis.stay_holder, self._serve])
                self._other.warning(f"another controller serves {self._redis.name}; this one waits for its end")
                self._trouble.resolved(f"{self._redis.name} can be used again")
                gevent.sleep(self._lease / 4)
            except NotHolderError:
                self._is_holder = False
            except (*OUTAGES, StateError) as error:
                self._is_holder = False
                if not self._trouble.is_open:
                    what = "the state" if isinstance(error, StateError) else self._redis.name
                    self._trouble.warning(f"{what} cannot be used, commands and results wait: {error}")
                gevent.sleep(PAUSES[min(failures, len(PAUSES) - 1)])
                failures += 1

    def _serve(self) -> None:
        """Until another controller does, or Redis is away."""
        self._publisher.take_over()
        for intake in self._intakes:
            intake.take_over()
        if not self._has_looked and (weakness := self._redis.weakness()):
            self._log.warning(weakness)
        self._has_looked = True
        self._trouble.resolved(f"{self._redis.name} can be used again")
        self._other.resolved(f"this controller serves {self._redis.name}")
        bodies = [one for intake in self._intakes for one in (intake.run, intake.return_waiting)]
        until_it_fails([self._publisher.run, *bodies])

    def stop(self) -> None:
        """Writes what has changed last, and lets another controller serve the clients at once."""
        if not self._is_holder:
            return
        try:
            with gevent.Timeout(LAST):
                self._publisher.write_all()
                self._redis.leave()
        except (*OUTAGES, NotHolderError, gevent.Timeout):
            pass  # the next controller finds out what is to be written
        self._redis.close()
