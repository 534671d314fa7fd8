"""Every built-in command, asked over HTTP (protocol 9)."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

from greenagent.builtins import names
from greenagent.values.command import BUILT_IN
from tests.support.agents import configuration
from tests.support.commands import shell
from tests.support.inside import StartInside
from tests.support.job_lives import answer_of, ask, kill, wait_for_words
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def test_every_built_in_is_known_by_its_name_to_those_that_only_send_it() -> None:
    assert names() == BUILT_IN


def test_what_the_machine_is(controller: RecordingController, start_agent: StartInside) -> None:
    """Shapes and units of protocol 9; the original gave kB times 1000."""
    start_agent()
    processors = answer_of(controller, "get_cpu_info")
    assert [processor["cpu"] for processor in processors] == list(range(len(processors)))
    kinds = {"cpu": int, "vendor_id": str, "model_name": str, "cores": int, "cache_size": int, "flags": list}
    assert all(isinstance(processors[0][key], kind) for key, kind in kinds.items())
    memory = answer_of(controller, "get_mem_info")
    [line] = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:")]
    assert memory["total"] == int(line.split()[1]) * 1024
    assert memory["used"] == memory["total"] - memory["free"]
    assert 0 < memory["used_percent"] <= 100
    mounts = answer_of(controller, "get_disk_info")
    assert "/" in [mount["mountpoint"] for mount in mounts]
    assert all(set(mount) == {"device", "mountpoint", "fstype", "opts"} for mount in mounts)
    cards = {card["name"]: card for card in answer_of(controller, "get_nic_info")}
    assert "loopback" in cards["lo"]["flags"]
    assert {"addr": "127.0.0.1/8"} in cards["lo"]["addrs"]
    system = answer_of(controller, "get_os_info")
    assert (system["hostname"], system["os"]) == (socket.gethostname(), "linux")
    assert abs(system["boot_time"] + system["uptime"] - time.time()) < 120


def test_live_usage_of_one_job_of_some_and_of_all(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    """Defect 16 of the original: memory frozen at the start, children left out."""
    start_agent(more="")
    up = tmp_path / "up"
    program = f"x = bytearray(60_000_000); open('{up}', 'a').write('x '); import time; time.sleep(1000)"
    command = shell("fat", f'python3 -c "{program}" & echo $$ >> {up}; wait', domain="d")
    controller.push(command)
    controller.push({**shell("thin", "sleep 1000", domain="e"), "gid": 0, "nid": 0, "role": "web"})
    wait_for_words(up, 2)

    def one() -> Any:
        entry = answer_of(controller, "get_process_stats", {"id": "fat"})
        return entry if entry["rss"] > 60_000_000 else None

    entry = wait_until(one, 20, "the child's memory", 0.3)
    assert entry["cmd"] == command
    assert {"cpu", "rss", "vms", "swap", "debug"} <= set(entry)
    ids = [found["cmd"]["id"] for found in answer_of(controller, "get_processes_stats", {"domain": "d"})]
    assert ids == ["fat"]
    every = answer_of(controller, "get_processes_stats")
    assert {"fat", "thin"} <= {found["cmd"]["id"] for found in every}
    assert {(found["cmd"]["gid"], found["cmd"]["nid"]) for found in every} == {(1, 10)}, "also of what came by a role"
    total = answer_of(controller, "get_aggregated_stats")
    assert total["cmd"] is None
    assert total["rss"] > entry["rss"] + 10_000_000, "all jobs and the agent itself"
    unknown = ask(controller, "get_process_stats", {"id": "nobody"})
    assert (unknown["state"], unknown["data"]) == ("ERROR", "Process with id 'nobody' doesn't exist")


def test_get_msgs_with_every_filter(controller: RecordingController, start_agent: StartInside) -> None:
    """Defect 18 of the original: the list form of levels was ignored, and the level of the answer was 0."""
    start_agent()
    controller.push(shell("a", "for i in 1 2 3; do echo $i; echo 4::four $i; echo 7::seven $i; done", domain="d"))
    controller.push(shell("b", "seq 1 1500", domain="e"))
    controller.wait_for_result("a")
    controller.wait_for_result("b")

    def data(**wanted: Any) -> list[str]:
        return [record["data"] for record in answer_of(controller, "get_msgs", wanted)]

    wait_until(lambda: len(data(jobid="b")) == 1000 and len(data(jobid="a")) == 9, what="the lines in the database")
    assert data(jobid="b")[:2] == ["1500", "1499"], "newest first, at most 1000"
    assert data(jobid="b", limit=2) == ["1500", "1499"]
    assert data(jobid="b", limit="3") == ["1500", "1499", "1498"]
    assert len(data(jobid="b", limit=5000)) == 1000
    sevens = ["seven 3", "seven 2", "seven 1"]
    assert data(jobid="a", levels="7") == data(jobid="a", levels=[7]) == data(domain="d", levels=7) == sevens
    assert len(data(jobid="a", levels="4-7")) == len(data(jobid="a", levels=[4, 7])) == 6
    [first, *_] = answer_of(controller, "get_msgs", {"jobid": "a"})
    assert set(first) == {"id", "jobid", "domain", "name", "epoch", "epoch_ms", "level", "data"}
    assert (first["jobid"], first["domain"], first["name"], first["level"]) == ("a", "d", "sh", 7)
    second = first["epoch"]
    assert "seven 3" in data(jobid="a", timefrom=second, timeto=second), "both bounds include their second"
    assert data(jobid="a", timefrom=second + 100) == data(jobid="a", timeto=second - 100) == []
    assert len(data(jobid="a", timefrom=0, timeto=None)) == 9
    for bad, part in [({"levels": "5-1"}, "levels"), ({"limit": []}, "limit"), ("rubbish", "JSON")]:
        result = ask(controller, "get_msgs", bad)
        assert result["state"] == "ERROR"
        assert part in result["data"]


def test_get_msgs_before_the_first_line_harms_nothing(
    controller: RecordingController, start_agent: StartInside
) -> None:
    """Defect 34 of the original: asking before the first write disabled the database."""
    agent = start_agent()
    assert answer_of(controller, "get_msgs", {"jobid": "a"}) == []
    controller.push(shell("a", "echo x"))
    controller.wait_for_result("a")
    wait_until(lambda: agent.rows("jobid = 'a'"), what="the line")


def test_del_msgs_deletes_what_matches_and_keeps_what_a_controller_waits_for(
    controller: RecordingController, start_agent: StartInside
) -> None:
    """Defect 18 of the original: the command was missing."""
    agent = start_agent(text=None, more='[logging.late]\ntype = "AC"\nflush_int = 3600\nlevels = [9]\n')
    controller.push(shell("a", "seq 1 2500; echo 9::wanted"))
    controller.push(shell("b", "echo other"))
    controller.wait_for_result("a")
    controller.wait_for_result("b")
    wait_until(lambda: len(agent.rows("jobid IN ('a', 'b')")) == 2502, what="the lines")
    refused = ask(controller, "del_msgs", {"jobid": "a", "limit": 5})
    assert refused["state"] == "ERROR"
    assert "limit" in refused["data"]
    assert answer_of(controller, "del_msgs", {"jobid": "a", "levels": [4]}) == {"deleted": 0, "kept": 0}
    assert answer_of(controller, "del_msgs", {"jobid": "a"}) == {"deleted": 2500, "kept": 1}
    assert sorted(row[3] for row in agent.rows("jobid IN ('a', 'b')")) == ["other", "wanted"]


def test_reboot_is_refused_unless_allowed(controller: RecordingController, start_agent: StartInside) -> None:
    start_agent()
    result = ask(controller, "reboot")
    assert result["state"] == "ERROR"
    assert "allow_reboot" in result["data"]
    assert answer_of(controller, "ping") == "pong"


def test_without_a_db_logger_there_are_no_messages_to_get(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    text = configuration(folder, {"main": controller.url})
    start = text.index("[logging.db]")
    start_agent(folder=folder, text=text[:start] + text[text.index("[logging.ac]") :])
    assert ask(controller, "get_msgs")["state"] == "UNKNOWN_CMD"
    assert ask(controller, "del_msgs")["state"] == "UNKNOWN_CMD"


def test_an_extension_of_the_same_name_wins(controller: RecordingController, start_agent: StartInside) -> None:
    start_agent(more='[extensions.ping]\nbinary = "echo"\nargs = ["mine"]\n')
    assert ask(controller, "ping")["streams"] == ["mine\n", ""]


def test_odd_arguments_are_understood_or_refused_and_never_harm(
    controller: RecordingController, start_agent: StartInside
) -> None:
    """Defect 27 of the original: a null among the text arguments, or a figure asked too early, crashed the agent."""
    start_agent()
    odd = {
        "name": "echo",
        "args": [1, 2.5, None, True],
        "domain": None,
        "queue": None,
        "max_time": "5",
        "stats_interval": 0,
    }
    controller.push({"id": "odd", "cmd": "execute", "args": odd, "data": None})
    controller.push({"id": "early", "cmd": "get_process_stats", "data": json.dumps({"id": "odd"})})
    assert controller.wait_for_result("odd")["streams"] == ["1 2.5  true\n", ""]
    assert controller.wait_for_result("early")["state"] in ("SUCCESS", "ERROR")
    controller.push(shell("j", "sleep 1000"))
    assert ask(controller, "get_process_stats", {"id": "j"})["state"] == "SUCCESS"
    kill(controller, "j")
