"""kill -9 at any instant: every database opens, ids never repeat, nothing that was committed is lost (promise 4)."""

import itertools
import os
import random
import signal
import subprocess
import time

import gevent
import pytest

from greenagent.logs.read.verify import verify_folder
from tests.support.stores import Stores, rows, start_chatty

KILLS = int(os.environ.get("GREENAGENT_TEST_KILLS", "10"))


def stop_at_random(process: subprocess.Popen, pause: float) -> tuple[int, str]:
    """Kills a process some time after its first commit; the last number it called safe, and its stderr."""
    assert process.stdout is not None
    assert process.stderr is not None
    first = process.stdout.readline()
    time.sleep(pause)  # the random instant is the point here
    process.send_signal(signal.SIGKILL)
    output, errors = process.communicate()
    return int((first + output).split("\n")[-2]), errors


@pytest.mark.timeout(120 + 5 * KILLS)
def test_kill_9_at_random_instants_while_files_rotate(stores: Stores) -> None:
    random.seed(KILLS)
    safe: list[int] = []
    while len(safe) < KILLS or len(stores.folder.archives()) < 3:  # a slow machine writes less in a life
        number, errors = stop_at_random(start_chatty(stores, 1 << 18), random.uniform(0, 0.1))
        assert errors == ""
        safe.append(number)
    reports = list(verify_folder(stores.folder))
    assert [report.line() for report in reports if report.problems] == []
    stored = rows(stores.folder, "seq, id, data")
    ids = [number for _, number, _ in stored]
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)
    # Every life begins again at line 0 and leaves an unbroken row of lines at least as long as it called safe.
    starts = [index for index, (_, _, data) in enumerate(stored) if int(data[:9]) == 0]
    assert len(starts) == len(safe)
    for number, (begin, end) in zip(safe, itertools.pairwise([*starts, len(stored)]), strict=True):
        life = [int(data[:9]) for _, _, data in stored[begin:end]]
        assert life == list(range(len(life)))
        assert len(life) >= number


def test_after_a_crash_the_next_start_is_silent_and_goes_on(stores: Stores) -> None:
    stop_at_random(start_chatty(stores, 1 << 20), 0.01)
    store = stores.open()
    assert stores.agent_log.lines == []
    assert store.intake.ids.left == 100_000
    gevent.sleep(0)
