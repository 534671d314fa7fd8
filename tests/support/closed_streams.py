"""Programs whose standard streams are closed (``<&-``, ``>&-``, ``2>&-``)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.programs import ROOT, Done, command
from tests.support.waiting import wait_until

CLOSED = {0: "<&-", 1: ">&-", 2: "2>&-"}


def without(streams: tuple[int, ...], module: str, *arguments: str) -> list[str]:
    """The command of an entry point that is started without some of its streams."""
    closing = " ".join(CLOSED[one] for one in streams)
    return ["/bin/sh", "-c", f'exec "$@" {closing}', "sh", *command(module, *arguments)]


def done_without(folder: Path, streams: tuple[int, ...], module: str, *arguments: str) -> Done:
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            without(streams, module, *arguments), stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=ROOT
        )
    wait_until(lambda: process.poll() is not None, what=f"{module} to end")
    return Done(process.returncode, (folder / "out").read_text(), (folder / "err").read_text())
