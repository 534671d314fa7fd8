"""The state that one image of the agent leaves to the next, where an older image leaves less."""

from __future__ import annotations

import json

from greenagent.jobs.handover import HandedOver, StartupState, from_json


def test_what_became_of_startup_tasks_is_handed_over() -> None:
    state = HandedOver(startup=StartupState(["a", "b", "c"], ["a"], ["c", "d"]))
    assert from_json(json.loads(json.dumps(state.to_json()))) == state


def test_startup_tasks_that_an_older_image_started_count_as_up() -> None:
    value = HandedOver(startup=StartupState(["a", "b"], ["a"], [])).to_json()
    del value["startup_up"], value["startup_failed"]
    assert from_json(value).startup == StartupState(["a", "b"], ["a", "b"], [])
