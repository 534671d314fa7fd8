"""Modules import in one direction only (docs/architecture.md), patch in one place, and never fork behind our back."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "greenagent"

ALLOWED: dict[str, set[str]] = {
    "values": set(),
    "runtime": {"values"},
    "script": set(),
    "settings": {"values", "runtime"},
    "process": {"values", "runtime"},
    "logs": {"values", "runtime"},
    "spool": {"values", "runtime"},
    "statistics": {"values", "runtime"},
    "uplink": {"values", "runtime", "settings"},
    "jobs": {"values", "runtime", "settings", "process", "logs", "spool", "statistics"},
    "builtins": {"values", "runtime", "settings", "logs", "statistics", "jobs"},
    "controller": {"values", "runtime"},
    "agent": {
        "values", "runtime", "settings", "process", "logs", "spool", "statistics", "uplink", "builtins", "jobs",
    },
    "cli": {
        "values", "runtime", "settings", "process", "logs", "spool", "statistics", "uplink", "builtins", "jobs",
        "agent", "controller",
    },
}  # fmt: skip

FORBIDDEN_MODULES = {"subprocess", "multiprocessing", "pty", "popen2", "concurrent.futures"}
FORBIDDEN_CALLS = {
    "os.fork", "os.forkpty", "os.system", "os.popen", "os.posix_spawn", "os.posix_spawnp", "os.spawnv", "os.wait",
    "ctypes.util.find_library", "platform.processor", "platform.uname", "platform.platform", "uuid.getnode",
    "uuid.uuid1", "os.umask",
}  # fmt: skip
OUTSIDE_THE_AGENT = {"controller", "cli"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = room(path)
    if own == "__init__":
        return
    assert own in ALLOWED, f"room {own} is not in docs/architecture.md"
    tree = ast.parse(path.read_text())
    for name in imports(tree):
        if name.startswith("greenagent."):
            other = name.split(".")[1]
            if other in ALLOWED:
                assert other == own or other in ALLOWED[own], f"{own} must not import {other} ({name})"


def test_the_log_store_reads_without_its_writer() -> None:
    """``logs/write`` imports ``logs/read``, never the other way."""
    readers = sorted((PACKAGE / "logs" / "read").glob("*.py"))
    assert len(readers) > 3
    found = [(path.name, name) for path in readers for name in imports(ast.parse(path.read_text()))]
    assert [entry for entry in found if entry[1].startswith("greenagent.logs.write")] == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_forks_or_patches_behind_our_back(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = set(imports(tree))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if room(path) not in OUTSIDE_THE_AGENT:
        assert not names & FORBIDDEN_MODULES
        assert not calls & FORBIDDEN_CALLS
    if path != PACKAGE / "runtime" / "patch.py":
        assert not {call for call in calls if "patch_all" in call or call.startswith("monkey.patch")}


def test_the_entry_points_patch_before_anything_else() -> None:
    """A socket or lock made before the patch would block the hub for ever. Signals come even before that."""
    for name in ("agent/__main__", "controller"):
        first = statements(name)
        early = [text for text in first[:3] if re.search("early|interrupt|signals", text)]
        assert early[0].startswith("from greenagent.cli.early import ")
        assert "open_missing_streams()" in "".join(first)  # before the hub opens files of its own
    assert statements("controller")[2:6] == [
        "from greenagent.cli.common import open_missing_streams",  # imports nothing that could be patched
        "from greenagent.runtime.patch import patch",
        "open_missing_streams()",
        "patch()",
    ]
    # The agent's own entry point imports what reads options, and the agent only in the module that patches.
    assert statements("agent/run")[:2] == ["from greenagent.runtime.patch import patch", "patch()"]
    program = (
        "import sys, greenagent.cli.agent.__main__\n"
        "print({'gevent', 'ssl', 'socket', 'threading', 'subprocess', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def statements(name: str) -> list[str]:
    """Of a module of the command line, without what stands in no order."""
    body = ast.parse((PACKAGE / "cli" / f"{name}.py").read_text()).body
    first = [node for node in body if not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call)]
    return [text for node in first if (text := ast.unparse(node)) != "from __future__ import annotations"]


SMALL_ON_PURPOSE = {
    "spool/migration.py": "ledgers of earlier versions, which are none of the spool's own business",
    "values/command_line.py": "a command as people read it, for the agent, the tools and ctl",
    "cli/early.py": "imported before everything else",
    "uplink/proxy.py": "asked by the client, by what is said of a controller, and by --check",
    "cli/logs/verify.py": "a command of its own, loaded only when it is given",
    "logs/console.py": "the console loggers",
    "runtime/clock.py": "the one clock that nobody sets; tests/faults/test_wall_clock.py names it",
    "runtime/lean_requests.py": "runs before the first import of requests, in the agent and in ctl",
    "runtime/patch.py": "imported before everything but cli/early.py",
    "values/errors.py": "the errors that all rooms share",
    "values/signals.py": "signals as people name them",
}
"""Modules under 40 lines, and why they are no slice of a neighbour."""


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_have_a_size_that_is_read_at_once(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 400
    if path.stem not in {"__init__", "__main__"}:
        assert lines >= 40 or str(path.relative_to(PACKAGE)) in SMALL_ON_PURPOSE


def test_what_is_small_on_purpose_is_there_and_small() -> None:
    for name in SMALL_ON_PURPOSE:
        assert len((PACKAGE / name).read_text().splitlines()) < 40, name


def test_properties_are_tested_without_chance_and_without_times() -> None:
    tests = Path(__file__).parent
    line = re.compile(r"^from hypothesis import .*\b(?:given|settings)\b", re.MULTILINE)
    found = [str(path.relative_to(tests)) for path in tests.rglob("*.py") if line.search(path.read_text())]
    assert found == ["support/properties.py"]
