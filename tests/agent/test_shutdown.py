"""What was asked about the agent's end, and in what order."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenagent.agent.shutdown import DRAIN, EXIT, REBOOT, RESTART, ShutdownRequests
from greenagent.jobs.handover import HandedOver
from tests.support.inside import InsideAgent


@pytest.mark.parametrize(
    ("asked", "how"),
    [
        ([DRAIN], DRAIN),
        ([EXIT, DRAIN], EXIT),
        ([DRAIN, EXIT], EXIT),
        ([REBOOT], REBOOT),
        ([EXIT, REBOOT], REBOOT),
        ([REBOOT, EXIT], REBOOT),
        ([REBOOT, RESTART], REBOOT),
    ],
)
def test_what_is_asked_while_the_agent_is_being_replaced_is_not_forgotten(asked: list[str], how: str) -> None:
    """A ``reboot`` that was answered ``true`` was."""
    requests = ShutdownRequests()
    requests.ask(RESTART)
    assert requests.wait() == RESTART
    for one in asked:
        requests.ask(one)
    assert requests.is_to_end
    requests.call_off_replacement()
    assert requests.wait() == how


def test_what_was_asked_when_there_was_no_way_back_is_done_by_the_new_image(tmp_path: Path) -> None:
    inside = InsideAgent(tmp_path, {})
    inside.agent.start(HandedOver(request=REBOOT))
    assert inside.agent.requests.wait() == REBOOT
    inside.agent.stop()
