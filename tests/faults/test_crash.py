"""kill -9 of agent and controller at random instants: scripts/crash-test, 10 rounds."""

from __future__ import annotations

import pytest

from tests.support.processes import ROOT, run_script


@pytest.mark.timeout(600)
def test_rounds_of_kill_minus_nine_keep_every_promise() -> None:
    # Other tests run at the same time: the agent may get no processor for a second or two.
    done = run_script(ROOT / "scripts" / "crash_test.py", "--rounds", "10", "--slack", "3", timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every promise was kept" in done.stdout
