"""Answers of built-ins over all that a database may hold."""

from __future__ import annotations

import json

from tests.support.agents import StartAgent
from tests.support.commands import built_in, execute
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

LONG_LINES = "for number in range(40): print(f'{number:02}' + 'x' * 1000000)"


def test_get_msgs_of_many_long_lines_is_answered_with_the_newest(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    """A thousand of them took 4 GiB, and the agent was deaf for 18 s."""
    agent = start_agent()
    controller.push(execute("job", "python3", "-c", LONG_LINES))
    controller.wait_for_result("job")
    wait_until(lambda: len(agent.rows("jobid = 'job'")) == 40, what="the lines in the database")
    controller.push(built_in("query", "get_msgs", json.dumps({"jobid": "job"})))
    result = controller.wait_for_result("query")
    assert result["state"] == "SUCCESS"
    assert result["truncated"]
    found = [record["data"][:2] for record in json.loads(result["data"])]
    assert found == [f"{number:02}" for number in range(39, 23, -1)]
