"""Extensions, startup conditions and scripts (protocol 10 and 11)."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from tests.support.inside import StartInside
from tests.support.job_lives import wait_for_words, words
from tests.support.programs import ROOT
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until

SCRIPT = b"def action(a, b=2):\n    print('hello')\n    return {'sum': a + b}\n"


def push(controller: RecordingController, job_id: str, cmd: str, data: str = "", **args: Any) -> dict[str, Any]:
    controller.push({"id": job_id, "cmd": cmd, "args": args, "data": data})
    return controller.wait_for_result(job_id, 20)


def test_extensions_fill_in_what_is_asked_and_refuse_what_is_missing_or_climbs_out(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    """Defect 24 of the original: args and env dropped, ``<nil>`` for a missing key, ``..`` let through."""
    more = f"""
[extensions.strict]
binary = "echo"
cwd = "{tmp_path}"
args = ["{{domain}}/{{name}}.py", "{{}}"]
[extensions.free]
binary = "echo"
cwd = "{tmp_path}"
args = ["{{domain}}/{{name}}"]
allow_parent = true
[extensions.env]
binary = "env"
env = {{ COLOUR = "red" }}
"""
    start_agent(more=more)
    assert push(controller, "1", "strict", domain="d", name="n", args=["more"])["streams"][0] == "d/n.py {} more\n"
    assert push(controller, "2", "strict", domain="a b", name=1000000)["streams"][0] == "a b/1000000.py {}\n"
    for number, args in enumerate([{"domain": "d"}, {"domain": None, "name": "n"}, {}]):
        missing = push(controller, f"m{number}", "strict", **args)
        assert missing["state"] == "ERROR"
        assert ("'name'" if args.get("domain") else "'domain'") in missing["data"]
    for number, domain in enumerate(["..", "../..", "a/../..", "/../x", "a/../../b"]):
        climbing = push(controller, f"c{number}", "strict", domain=domain, name="n")
        assert climbing["state"] == "ERROR"
        assert "allow_parent" in climbing["data"] or "leave" in climbing["data"]
        assert climbing["exit_code"] is None
    assert push(controller, "3", "strict", domain="a..b", name="n")["streams"][0] == "a..b/n.py {}\n"
    assert push(controller, "4", "free", domain="..", name="n")["streams"][0] == "../n\n"
    lines = push(controller, "5", "env", env=["COLOUR=blue", "SIZE=big"])["streams"][0].splitlines()
    assert {"COLOUR=red", "SIZE=big"} <= set(lines)


def test_startup_tasks_wait_for_those_they_come_after(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    """``must_exit`` is of the task itself: those after it wait for its successful exit. A failure blocks only those."""
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    scripts = {
        "serves": (f"echo serves >> {runs}; sleep 1000", ""),
        "after_serves": (f"echo after_serves >> {runs}", 'after = ["serves"]'),
        "must": (f"while [ ! -e {gate} ]; do sleep 0.05; done; echo must >> {runs}", "must_exit = true"),
        "after_must": (f"echo after_must >> {runs}", 'after = ["must", "after_serves"]'),
        "fails": ("exit 1", ""),
        "after_fails": (f"echo after_fails >> {runs}", 'after = ["fails"]'),
        "after_that": (f"echo after_that >> {runs}", 'after = ["after_fails"]'),
    }
    more = "".join(
        f'[startup.{name}]\nname = "execute"\n{condition}\n'
        f'[startup.{name}.args]\nname = "sh"\nargs = ["-c", "{script}"]\n'
        for name, (script, condition) in scripts.items()
    )
    agent = start_agent(more=more)
    # After the start of one comes the other, whichever prints first.
    assert set(wait_for_words(runs, 2, 20)) == {"serves", "after_serves"}
    gate.touch()
    assert wait_for_words(runs, 4, 20)[2:] == ["must", "after_must"]
    for name, cause in (("after_fails", "fails"), ("after_that", "after_fails")):
        said = f"startup.{name} is not started: startup.{cause}, which it comes after, failed"
        wait_until(lambda said=said: said in agent.stderr, what=said)
    assert agent.stop() == 0
    assert (len(words(runs)), words(runs)[2:]) == (4, ["must", "after_must"])
    assert controller.results == []


def test_a_script_from_the_folder(controller: RecordingController, start_agent: StartInside, tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    (folder / "d").mkdir(parents=True)
    (folder / "d" / "add.py").write_bytes(SCRIPT)
    (folder / "d" / "bad.py").write_text("def action():\n    raise ValueError('no luck')\n")
    start_agent(main=f'scripts_dir = "{folder}"')
    result = push(controller, "1", "jumpscript", '{"a": 1, "b": 5}', domain="d", name="add")
    assert (result["state"], result["level"], json.loads(result["data"])) == ("SUCCESS", 20, {"sum": 6})
    assert result["streams"][0] == "hello\n"
    bad = push(controller, "2", "jumpscript", domain="d", name="bad")
    assert (bad["state"], bad["exit_code"]) == ("ERROR", 1)
    assert json.loads(bad["critical"])["message"] == "no luck"
    for number, (domain, name, part) in enumerate(
        [
            ("d", "none", "there is no script"),
            ("..", "x", "outside"),
            ("d", "../../x", "outside"),
            ("d", "", "args.name"),
        ]
    ):
        refused = push(controller, f"r{number}", "jumpscript", domain=domain, name=name)
        assert refused["state"] == "ERROR"
        assert part in refused["data"]
    assert "not JSON" in push(controller, "3", "jumpscript", "{", domain="d", name="add")["data"]


def test_a_script_by_its_hash_is_fetched_checked_and_kept(
    controller: RecordingController, start_agent: StartInside
) -> None:
    start_agent()
    digest = hashlib.md5(SCRIPT).hexdigest()
    controller.scripts[digest] = SCRIPT
    for number in (1, 2):
        data = json.dumps({"hash": digest, "args": {"a": number}})
        result = push(controller, f"s{number}", "jumpscript_content", data)
        assert json.loads(result["data"]) == {"sum": number + 2}
    assert controller.script_requests == [digest], "the second comes from what is kept"
    other = "0" * 32
    controller.scripts[other] = SCRIPT
    wrong = push(controller, "w", "jumpscript_content", json.dumps({"hash": other}))
    assert wrong["state"] == "ERROR"
    assert "another hash" in wrong["data"]
    absent = push(controller, "n", "jumpscript_content", json.dumps({"hash": "1" * 32}))
    assert absent["state"] == "ERROR"
    assert "404" in absent["data"]
    direct = push(controller, "c", "jumpscript_content", json.dumps({"content": SCRIPT.decode(), "args": {"a": 0}}))
    assert json.loads(direct["data"]) == {"sum": 2}


def test_a_bash_script(controller: RecordingController, start_agent: StartInside) -> None:
    start_agent()
    script = 'x=(a b c); echo "${x[1]} $1"; echo 20::7; exit 4\n'
    result = push(controller, "b", "bash", script, args=["one"])
    assert (result["state"], result["exit_code"], result["data"]) == ("ERROR", 4, "7")
    assert result["streams"][0] == "b one\n"


def test_a_callers_home_runs_no_code_of_the_callers(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    """Python runs ``usercustomize`` from a folder below HOME, before the program."""
    home = tmp_path / "home"
    site = home / f".local/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    site.mkdir(parents=True)
    (site / "usercustomize.py").write_text("print('the caller runs')\n")
    python = getattr(sys, "_base_executable", sys.executable)  # one of a virtual environment has no such folder
    section = f"binary = '{python}'\nargs = ['-c', 'print(1)']\n"
    start_agent(more=f"[extensions.closed]\n{section}[extensions.open]\n{section}allow_parent = true\n")
    env = [f"HOME={home}"]
    refused = push(controller, "1", "closed", env=env)
    assert (refused["state"], refused["exit_code"]) == ("ERROR", None)
    assert "args.env: HOME may decide what extension 'closed' runs or trusts" in refused["data"]
    assert push(controller, "2", "closed", env=["SIZE=1"])["streams"][0] == "1\n"
    assert push(controller, "3", "open", env=env)["streams"][0] == "the caller runs\n1\n"


def test_the_extension_of_the_page_takes_no_variable_of_the_callers(
    controller: RecordingController, start_agent: StartInside, tmp_path: Path
) -> None:
    page = (ROOT / "docs/security.md").read_text()
    section = page.partition("```toml\n[extensions.report]\n")[2].partition("```")[0]
    assert 'cwd = "/opt/report"' in section
    (tmp_path / "report").write_text('#!/bin/sh\necho "$@"\nenv\n')
    (tmp_path / "report").chmod(0o755)
    start_agent(more="[extensions.report]\n" + section.replace("/opt/report", str(tmp_path)))
    done = push(controller, "1", "report", env=["ODD_ONE=1", "LANG=C", "IN_NO_LIST=x"], args=["a b", "c"])
    first, *lines = done["streams"][0].splitlines()
    assert first == "a b c"
    names = {line.partition("=")[0] for line in lines}
    assert {"PATH", "GREENAGENT_JOB"} <= names
    assert names <= {"PATH", "GREENAGENT_JOB", "PWD", "SHLVL", "OLDPWD", "_"}
