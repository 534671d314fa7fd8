"""Real agents on a controller that misbehaves on command; tools to inject faults."""

from __future__ import annotations

from tests.end_to_end.conftest import controller, start_agent

__all__ = ["controller", "start_agent"]
