"""The agents of tests/jobs."""

from tests.jobs.conftest import controller, start_agent

__all__ = ["controller", "start_agent"]
