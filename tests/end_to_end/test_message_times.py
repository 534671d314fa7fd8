"""Times in the queries of messages that nobody lives to see (protocol 6.2)."""

from __future__ import annotations

from tests.support.agents import StartAgent
from tests.support.commands import execute
from tests.support.job_lives import answer_of
from tests.support.recording_controller import RecordingController


def test_a_time_beyond_all_times_leaves_the_bound_open(
    controller: RecordingController, start_agent: StartAgent
) -> None:
    start_agent()
    controller.push(execute("one", "echo", "line"))
    controller.wait_for_result("one")
    latest = 2**63 - 1

    def found(**more: int) -> int:
        return len(answer_of(controller, "get_msgs", {"jobid": "one", **more}))

    assert [found(timeto=latest), found(timefrom=-latest), found(timefrom=latest), found(timeto=-latest)] == [
        1,
        1,
        0,
        0,
    ]
    wanted = {"jobid": "one", "timefrom": latest}
    assert answer_of(controller, "del_msgs", wanted) == {"deleted": 0, "kept": 0}
    assert answer_of(controller, "del_msgs", {**wanted, "timefrom": 0, "timeto": latest})["deleted"] == 1
