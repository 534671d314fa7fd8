"""The state that one image of the agent leaves to the next, where an older image leaves less."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from greenagent.jobs.handover import HandedOver, StartupState, from_json


def test_startup_tasks_the_ledger_and_what_was_asked_meanwhile_are_handed_over() -> None:
    state = HandedOver(startup=StartupState(["a", "b", "c"], ["a"], ["c", "d"]), request="reboot")
    state.ledger_file = Path("/var/lib/ledger.db")
    assert from_json(json.loads(json.dumps(state.to_json()))) == state


def test_version_1_is_read_without_ledger_and_request() -> None:
    state = HandedOver(startup=StartupState(["a", "b"], ["a"], []))
    value = state.to_json()
    del value["ledger"], value["request"]
    assert from_json({**value, "version": 1}) == state


@pytest.mark.parametrize("version", [0, 3, "2", None])
def test_a_state_of_another_version_is_refused(version: object) -> None:
    with pytest.raises(ValueError, match="this agent reads versions 1 and 2"):
        from_json({**HandedOver().to_json(), "version": version})
