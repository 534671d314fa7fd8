"""A process that writes numbered lines into a store until it is killed; prints each number it knows to be safe.

Not a test: ``test_crash`` and ``test_damage`` start it. Arguments: folder, message id file, bytes
per database, and how many lines to write at most (0 = no end).
"""

from greenagent.runtime.patch import patch

patch()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from greenagent.logs.splitter import Splitter  # noqa: E402
from greenagent.logs.store import LogStore  # noqa: E402
from greenagent.logs.write.job_log import Routes  # noqa: E402
from greenagent.logs.write.retention import StoreLimits  # noqa: E402
from greenagent.runtime.agent_log import AgentLog, LineOutput  # noqa: E402


def main(folder: str, ids: str, size: str, most: str) -> None:
    store = LogStore(Path(folder), Path(ids), AgentLog(LineOutput(2, "agent_log")), limits=StoreLimits(int(size)))
    store.start()
    log = store.open_job("chatty", "dom", "nam", Routes(), "chatty")
    splitter = Splitter(1)
    number = 0
    while not int(most) or number < int(most):
        text = "".join(f"{line:09} {'x' * 60}\n" for line in range(number, number + 500))
        log.append(splitter.feed(text.encode()))
        number += 500
        if number % 2000 == 0:
            store.flush()
            print(number, flush=True)
    store.flush()
    print(f"figures {store.metrics.lines} {store.metrics.dropped}", flush=True)
    log.close()
    store.stop()


main(*sys.argv[1:])
