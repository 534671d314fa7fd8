"""What jobs tell and use reaches the controller: real agent, real processes, real HTTP."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tests.support.agents import StartAgent, configuration
from tests.support.commands import shell
from tests.support.recording_controller import RecordingController, status
from tests.support.waiting import wait_until


def every_second(folder: Path, controller: RecordingController) -> str:
    """A configuration whose statistics are flushed every second."""
    return configuration(folder, {"main": controller.url}, stats="interval = 1")


def points(controller: RecordingController) -> dict[str, list[tuple[int, float]]]:
    """(stamp, value) of every key that was accepted."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for item in controller.stats:
        for key, value in item["series"]:
            found[key].append((item["timestamp"], value))
    return found


def total(controller: RecordingController, key: str) -> float:
    return sum(value for _, value in points(controller)[key])


def test_what_a_job_tells_and_uses_arrives(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent(text=every_second(tmp_path, controller), folder=tmp_path)
    script = """
        echo '10::hits:2|c'; echo '10::hits:3|c|@0.5'; echo '10::level:-4|g'
        echo '10:::took:10|ms'; echo 'took:30|ms'; echo ':::'
        echo '10::odd:1|zz'; echo '10::hits:1|g'
        sleep 1.5; echo '10::hits:1|c'
    """
    controller.push(shell("one", script, domain="my.domain"))
    assert controller.wait_for_result("one")["state"] == "SUCCESS"
    prefix = "1.10.my_domain.sh."
    wait_until(lambda: total(controller, prefix + "hits") == 9, what="all counts")
    found = points(controller)
    assert found[prefix + "level"][0][1] == -4
    # An interval may end between the two.
    times = list(zip(found[prefix + "took.count"], found[prefix + "took"], strict=True))
    assert sum(count for (_, count), _ in times) == 2
    assert sum(count * mean for (_, count), (_, mean) in times) == 10 + 30
    assert max(value for _, value in found[prefix + "rss"]) > 500_000
    assert max(value for _, value in found[prefix + "threads"]) >= 1
    assert prefix + "odd" not in found
    stamps = [stamp for stamp, _ in found[prefix + "hits"]]
    assert stamps == sorted(set(stamps))
    refused = "jobid = 'one' AND level = 7 AND data LIKE '%refused%'"
    wait_until(lambda: len(agent.rows(refused)) >= 2, what="the refusals, which are stored after they were said")
    refusals = [data for _, _, _, data in agent.rows(refused)]
    assert [text.partition(":")[0] for text in refusals] == ["greenagent", "greenagent"]
    assert "line refused: 'odd:1|zz'" in refusals[0]
    assert "2 statistics lines were refused in all" in refusals[1]


def test_short_jobs_of_one_name_are_metered_and_add_up(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    start_agent(text=every_second(tmp_path, controller), folder=tmp_path)
    for number in range(10):
        controller.push(shell(f"job{number}", "echo '10::done:1|c'; sleep 0.2", domain="d"))
    for number in range(10):
        controller.wait_for_result(f"job{number}")
    wait_until(lambda: total(controller, "1.10.d.sh.done") == 10, what="ten counts")
    stamps = [stamp for stamp, _ in points(controller)["1.10.d.sh.done"]]
    assert len(stamps) == len(set(stamps)) <= 10
    assert total(controller, "1.10.d.sh.rss") > 10 * 100_000


def test_statistics_outlive_a_controller_that_refuses_and_a_kill_of_the_agent(
    controller: RecordingController, start_agent: StartAgent, tmp_path: Path
) -> None:
    controller.misbehave("stats", status(503))
    agent = start_agent(text=every_second(tmp_path, controller), folder=tmp_path)
    controller.push(shell("one", "echo '10::kept:5|c'", domain="d"))
    controller.wait_for_result("one")
    wait_until(
        lambda: any(post.endpoint == "stats" and b"kept" in post.body for post in controller.refused_posts),
        what="an attempt to send it",
    )
    agent.kill()
    controller.behave("stats")
    agent.start()
    wait_until(lambda: total(controller, "1.10.d.sh.kept") == 5, what="the count of the earlier run")
