"""An agent that runs as root without some of root's capabilities, so that it cannot do all to its children."""

from __future__ import annotations

from pathlib import Path

from tests.support.processes import ROOT

CAP_KILL = 5
CAP_SYS_PTRACE = 19
_HOOK = """
import ctypes, struct, sys
if 'greenagent.cli.agent' in ' '.join(sys.orig_argv):
    libc = ctypes.CDLL(None)
    header = ctypes.create_string_buffer(struct.pack('=Ii', 0x20080522, 0))
    data = ctypes.create_string_buffer(24)
    for number in {numbers}:
        libc.prctl(24, number, 0, 0, 0)  # out of the bounding set: no child gets it back
        assert libc.capget(header, data) == 0
        words = list(struct.unpack('=6I', data.raw))
        words[:3] = [word & ~(1 << number) for word in words[:3]]
        assert libc.capset(header, ctypes.create_string_buffer(struct.pack('=6I', *words))) == 0
"""


def python_path_without(folder: Path, *capabilities: int) -> str:
    """For ``python_path`` of an agent: what it imports first takes these from it. ``folder``: for that module."""
    hook = folder / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_HOOK.format(numbers=capabilities))
    return f"{hook}:{ROOT}"
