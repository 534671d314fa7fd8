"""Hypothesis without chance and without times: the same examples each time, however slow the machine is.

``GREENAGENT_TEST_RANDOM=1`` looks for new examples instead. What properties are tested with comes from here, since the
profile has to be loaded before a test is made.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, example, given, settings

__all__ = ["example", "given", "settings"]

settings.register_profile(
    "without chance",
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="GREENAGENT_TEST_RANDOM" not in os.environ,
    database=None,
    print_blob=True,
)
settings.load_profile("without chance")
