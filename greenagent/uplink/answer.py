"""An answer of a controller, and what its status says about what was sent (design, section 5 "Uploads")."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from greenagent.uplink.backoff import parse_retry_after


class ResponseClass(Enum):
    """What a status is about."""

    ACCEPTED = "2xx, the only acceptance there is"
    BODY = "the body is refused, and would be again"
    EITHER = "500: the originals answer it to a body they cannot read, others when they fail themselves"
    CONTROLLER = "anything else: the controller is at fault, everything is kept"


class Answer(NamedTuple):
    """Status, headers (their names in lower case) and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether it is an acceptance."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The beginning of the body, for people."""
        return self.body[:1000].decode("utf-8", "replace").strip()

    @property
    def retry_after(self) -> float | None:
        """Seconds the controller asks to wait, if it does."""
        return parse_retry_after(self.headers)

    def classify(self) -> ResponseClass:
        """What the status is about."""
        if self.ok:
            return ResponseClass.ACCEPTED
        if self.status in (400, 413, 422):
            return ResponseClass.BODY
        return ResponseClass.EITHER if self.status == 500 else ResponseClass.CONTROLLER

    def refusal(self) -> str:
        """A status that is no success, as a reason."""
        status = self.status
        if 300 <= status < 400:
            return f"it redirects (status {status}), which is not followed: is the URL right?"
        if status in (401, 403):
            return f"it does not let us in (status {status})"
        return {
            404: "it does not know the address (status 404): is the URL right?",
            429: "it asks us to wait (status 429)",
            500: "it fails on the request (status 500)",
        }.get(status, f"it answers with status {status}")
