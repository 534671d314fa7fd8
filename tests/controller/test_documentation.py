"""docs/controller.md names every endpoint."""

from __future__ import annotations

import re
from pathlib import Path

from greenagent.controller.http import agent_api, people_api, schedule_api

PAGE = (Path(__file__).parents[2] / "docs" / "controller.md").read_text()


def test_every_endpoint_is_documented() -> None:
    for name in agent_api.ENDPOINTS:
        assert re.search(f"`(GET|POST) {name}[?`]", PAGE), name
    for path in (*people_api.ROUTES, *schedule_api.ROUTES):
        name = re.sub(r"{\w+_id}", "{id}", path)
        assert re.search(f"`(GET|POST) {re.escape(name)}`", PAGE), path
