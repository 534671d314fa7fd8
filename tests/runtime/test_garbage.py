"""Short pauses of the garbage collector, in a program of its own: they are for the whole process."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGINNING = """
import gc
from greenagent.runtime import garbage
garbage.MORE = 1_500_000
garbage.shorten_pauses()
garbage.shorten_pauses()
"""
KEPT = """
kept = [[number] for number in range(300_000)]
gc.collect()
looked_through = len(gc.get_objects())
assert looked_through < 50_000, looked_through
"""
MADE = """
def pauses(phase, details):
    if phase == "stop" and details["generation"] == 2:
        seen.append(len(kept) - sum(seen))  # those made since the last full collection

seen = []
kept = []
gc.callbacks.append(pauses)
for number in range(300_000):
    kept.append([number])
assert max(seen) < 30_000, seen
"""
RINGS = """
class Ring:
    alive = 0
    def __init__(self):
        Ring.alive += 1
        self.itself = self
    def __del__(self):
        Ring.alive -= 1

most = 0
for _ in range(12):
    rings = [Ring() for _ in range(garbage.MORE // 5)]
    gc.collect()  # they are left out from now on
    del rings
    most = max(most, Ring.alive)
assert garbage.MORE / 5 < most < 1.5 * garbage.MORE, most
"""


@pytest.mark.parametrize(
    "program",
    [KEPT, MADE, RINGS],
    ids=["kept objects are looked through once", "few at a time", "rings do not pile up"],
)
def test_short_pauses(program: str) -> None:
    ended = subprocess.run([sys.executable, "-c", BEGINNING + program], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
