"""What jobs print by ``greenagent.script`` and by ``script.sh`` is understood by the agent as it was meant."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from greenagent.jobs.commands import SHELL_LIBRARY
from greenagent.logs.lines import Block, Mixed
from greenagent.logs.splitter import Splitter
from greenagent.statistics.statsd import parse
from greenagent.values.levels import NAMES
from greenagent.values.message import Message
from tests.support.processes import ROOT


def understood(printed: bytes) -> list[Message]:
    """The messages that an agent finds in it."""
    splitter = Splitter(1)
    pieces = [*splitter.feed(printed), *splitter.finish()]
    assert splitter.unclosed is None
    found: list[Message] = []
    for piece in pieces:
        if isinstance(piece, Block):
            found += [Message(piece.level, line) for line in piece.lines()]
        else:
            found += piece.messages() if isinstance(piece, Mixed) else [piece]
    return found


def python(program: str) -> subprocess.CompletedProcess[bytes]:
    """Runs it beside a copy of the module alone."""
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, timeout=120)


@pytest.fixture
def alone(tmp_path: Path) -> str:
    """A program's beginning: the module by itself, without the package."""
    shutil.copy(ROOT / "greenagent" / "script.py", tmp_path / "script.py")
    return f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import script; assert 'greenagent' not in sys.modules\n"


def sh(script: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["sh", "-eu", "-c", f'. "{SHELL_LIBRARY}"\n{script}'], capture_output=True, timeout=120)


TEXTS = ["plain", "a 'quoted' \"one\" $HOME `x` \\n %s", "7::in front", "two\nlines", "two\n:::\n:::x\nend", "\u20ac"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_one_message_of_its_level(alone: str, text: str) -> None:
    meant = [Message(7, re.sub("^:::", " :::", text, flags=re.MULTILINE))]
    printed = python(f"{alone}script.log('warning', {text!r}); print('after')")
    assert understood(printed.stdout) == [*meant, Message(1, "after")], printed.stderr
    quoted = "'" + text.replace("'", "'\\''") + "'"
    printed = sh(f"agent_log warning {quoted}; echo after")
    assert understood(printed.stdout) == [*meant, Message(1, "after")], printed.stderr


def test_both_know_the_names_of_the_levels_that_jobs_use(alone: str) -> None:
    names = {name: number for number, name in NAMES.items() if number not in (10, 20, 21, 22, 23, 30)}
    printed = python(alone + "".join(f"script.log({name!r}, 'x');" for name in names))
    assert understood(printed.stdout) == [Message(number, "x") for number in names.values()], printed.stderr
    printed = sh("\n".join(f"agent_log {name} x" for name in names))
    assert understood(printed.stdout) == [Message(number, "x") for number in names.values()], printed.stderr


def test_statistics_of_every_kind(alone: str) -> None:
    program = (
        "script.stat.counter('files'); script.stat.counter('files', 2.5); script.stat.gauge('free', -3)\n"
        "script.stat.timer('took', 40); script.stat.set('peers', '10.0.0.7:8080')\n"
        "with script.stat.timing('slept'): pass"
    )
    messages = understood(python(alone + program).stdout)
    assert {message.level for message in messages} == {10}
    parsed = parse("\n".join(message.text for message in messages))
    assert parsed.refused == []
    assert [(one.key, one.value, one.type) for one in parsed.metrics[:-1]] == [
        ("files", 1.0, "c"),
        ("files", 2.5, "c"),
        ("free", 0.0, "g"),
        ("free", "-3", "g"),
        ("took", 40.0, "ms"),
        ("peers", "10.0.0.7:8080", "s"),
    ]
    assert parsed.metrics[-1][::2] == ("slept", "ms")
    shell_messages = understood(sh("agent_counter files\nagent_gauge free -3\nagent_timer took 4e1").stdout)
    assert [message.text for message in shell_messages] == ["files:1|c", "free:0|g", "free:-3|g", "took:4e1|ms"]


@pytest.mark.parametrize(
    "wrong",
    [
        "script.log('no such', 'x')",
        "script.log(101, 'x')",
        "script.log(True, 'x')",
        "script.stat.counter('a:b')",
        "script.stat.counter('')",
        "script.stat.gauge('a', float('nan'))",
        "script.stat.set('a', 'x\\ny')",
        "script.result(float('inf'))",
    ],
)
def test_what_would_not_be_understood_is_a_value_error_that_names_it(alone: str, wrong: str) -> None:
    done = python(f"{alone}try:\n    {wrong}\nexcept ValueError as error:\n    print(error)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    "wrong",
    ["agent_log nosuch x", "agent_log 101 x", "agent_log", "agent_counter a:b", "agent_gauge a x", "agent_timer a"],
)
def test_the_shell_functions_refuse_likewise(wrong: str) -> None:
    done = sh(f"set +e; {wrong}; echo $?")
    assert done.stdout == b"2\n"
    assert len(done.stderr.splitlines()) == 1
