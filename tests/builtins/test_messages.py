"""``get_msgs`` and ``del_msgs``: odd times, and more lines than an answer holds (protocol 6.2)."""

from __future__ import annotations

import json

from tests.support.commands import built_in, execute
from tests.support.inside import StartInside
from tests.support.job_lives import answer_of
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

LONG_LINES = "for number in range(40): print(f'{number:02}' + 'x' * 1000000)"


def test_a_time_beyond_all_times_leaves_the_bound_open(
    controller: RecordingController, start_agent: StartInside
) -> None:
    start_agent()
    controller.push(execute("one", "echo", "line"))
    controller.wait_for_result("one")
    latest = 2**63 - 1

    def found(**more: int) -> int:
        return len(answer_of(controller, "get_msgs", {"jobid": "one", **more}))

    bounds = ({"timeto": latest}, {"timefrom": -latest}, {"timefrom": latest}, {"timeto": -latest})
    assert [found(**bound) for bound in bounds] == [1, 1, 0, 0]
    wanted = {"jobid": "one", "timefrom": latest}
    assert answer_of(controller, "del_msgs", wanted) == {"deleted": 0, "kept": 0}
    assert answer_of(controller, "del_msgs", {**wanted, "timefrom": 0, "timeto": latest})["deleted"] == 1


def test_get_msgs_of_many_long_lines_is_answered_with_the_newest(
    controller: RecordingController, start_agent: StartInside
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
