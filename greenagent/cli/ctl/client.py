"""The HTTP side of ``greenagent-ctl``: one session to a controller's ``/api``, errors as single sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from greenagent import __version__
from greenagent.cli.common import UsageError
from greenagent.cli.ctl.exit_codes import FAILED
from greenagent.runtime.files import read_token
from greenagent.values.errors import GreenagentError
from greenagent.values.text import zone_fault

DEFAULT_URL: Final = "http://127.0.0.1:8966"
UNKNOWN: Final = 404
ENDED: Final = 409
"""Answers of a controller: it knows no such job, or it has ended."""


class ControllerError(GreenagentError):
    """The controller is away or refuses; ``status`` is the HTTP status, 0 where there was no answer."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status
        self.exit_code = FAILED


class Client:
    """Talks to ``/api``."""

    def __init__(self, url: str, ca: str = "", cert: str = "", key: str = "", token_file: str = "") -> None:
        """``ca``, ``cert``, ``key``, ``token_file``: files, "" for none. Raises UsageError for what cannot be used."""
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            (parts.hostname or "").encode("idna")
        except ValueError:  # such as http://[::1 and http://a..b
            usable = False
        if not usable:
            raise UsageError(f"--url {url!r} is not an http or https address")
        if fault := zone_fault(parts.hostname or ""):
            raise UsageError(f"--url {url!r} {fault}")
        self.url = url.rstrip("/")
        headers = {"User-Agent": f"greenagent-ctl/{__version__}"}
        if key and not cert:
            raise UsageError("--key needs --cert")
        from greenagent.cli.ctl.session import Session

        if token_file:
            try:
                token = read_token(Path(token_file), pipe_given=True)
            except GreenagentError as error:
                raise UsageError(f"--token-file: {error}") from error
            headers["Authorization"] = f"Bearer {token}"
        self._session = Session(parts.scheme == "https", headers, ca, cert, key)

    def get(self, path: str, wait: float = 0.0, **parameters: Any) -> dict[str, Any]:
        """The JSON object at ``/api/PATH``. Raises ControllerError."""
        if wait:
            parameters["wait"] = wait
        return self._ask("GET", path, wait, params=parameters)

    def post(self, path: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Posts a JSON object to ``/api/PATH``; returns the answer. Raises ControllerError and UsageError."""
        try:
            body = json.dumps(value, allow_nan=False)
        except (RecursionError, ValueError) as error:
            raise UsageError(f"the command cannot be sent as JSON: {error}") from error
        return self._ask("POST", path, 0.0, data=body, headers={"Content-Type": "application/json"})

    def _ask(self, method: str, path: str, wait: float, **options: Any) -> dict[str, Any]:
        from greenagent.cli.ctl.session import RequestError

        try:
            answer = self._session.ask(method, f"{self.url}/api/", path, wait, **options)
        except RequestError as error:
            raise ControllerError(f"cannot reach the controller at {self.url}: {error}") from error
        try:
            value = answer.json()
        except (RecursionError, ValueError):
            value = None
        status = answer.status_code
        if status >= 300:
            given = value.get("error") if isinstance(value, dict) else None
            reason = given or answer.reason or "no reason given"
            raise ControllerError(f"the controller at {self.url} refuses ({status}): {reason}", status)
        if not isinstance(value, dict):
            raise ControllerError(f"what answers at {self.url} is no controller", status)
        return value


def job_path(job_id: str) -> str:
    """Where a job is below ``/api/``, whatever its id is made of."""
    name = quote(job_id, safe="")
    return f"jobs/{name.replace('.', '%2E') if name in ('.', '..') else name}"
