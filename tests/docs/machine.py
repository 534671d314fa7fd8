"""Runs the shell blocks of pages as a reader would, on a machine of their own.

That is namespaces of its own (users, mounts, network, processes): the page is root there, has the ports that it
names, and makes files below /etc, /opt, /run, /var/lib and /var/log. Nobody else sees them, and what it started ends
with it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.docs.pages import Block, blocks, copy_checkout, first_configuration
from tests.support.programs import PROGRAMS, ROOT, without_waiting
from tests.support.waiting import wait_until

READY = {"greenagent-controller": "listening on", "greenagent": "is ready"}
"""What a program prints when it is; a reader waits for that before going on to the next block."""
SERVED = ("docs/commands.md", "docs/jobs.md", "docs/logs.md")
"""Pages whose examples need the agent and the controller of README.md to run: one machine is enough for them."""
INSTALLED = "docs/service.md"
"""The page that goes on where greenagent is installed in /opt/greenagent."""
TIME = 280
"""Seconds for a page, many times what it takes."""
UNSHARE = ("--map-root-user", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")

NAMESPACE = """
set -eu
"$PYTHON" - <<'END'
import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as up:
    fcntl.ioctl(up, 0x8914, struct.pack("16sH14x", b"lo", 0x41))  # SIOCSIFFLAGS: IFF_UP | IFF_RUNNING
END
mkdir "$HARNESS/scratch"
mount -t tmpfs tmpfs "$HARNESS/scratch"
mirror() {  # the folder with all that it holds, by links, in which new names can be made
    old=$HARNESS/scratch/old$1 new=$HARNESS/scratch/new$1
    mkdir -p "$old" "$new"
    mount --rbind "$1" "$old"
    mount -o remount,bind,ro "$old" || true
    for file in "$1"/*; do
        case $file in */greenagent*) ;; *) ln -s "$old/${file##*/}" "$new/${file##*/}" ;; esac
    done
    mount --bind "$new" "$1"
}
for folder in /etc /opt /run /var/lib /var/log; do mirror $folder; done
for folder in default init.d logrotate.d systemd; do rm -f /etc/$folder; mkdir /etc/$folder; done
mkdir /etc/systemd/system
[ ! -d "$HARNESS/opt" ] || cp -r "$HARNESS/opt/." /opt
unset PYTHON
"""
BLOCK = """
echo {number} > "$HARNESS/begun"
. "$HARNESS/{number}.sh" > "$HARNESS/{number}.out" 2>&1
"""
WAIT = """
tries=0
until grep -q {text!r} "$HARNESS/{number}.out"; do
    tries=$((tries + 1)); [ $tries -lt 3600 ] || {{ echo "{program} is not ready"; exit 1; }}
    sleep 0.05
done
"""
SERVICES = """greenagent-controller &
greenagent -c greenagent.toml &
"""
FIRST_CONTACT = "greenagent-ctl run --gid 1 --nid 10 --wait-for-agent 240 -- true\n"


def needs_namespaces() -> str:
    """The path of ``unshare``; skips loudly where it cannot make namespaces, fails then under CI=true."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, *UNSHARE, "true"], capture_output=True).returncode:
        text = f"unshare {' '.join(UNSHARE)}: allow user namespaces to run this test"
        if os.environ.get("CI") == "true":
            pytest.fail(f"needed under CI=true: {text}")
        pytest.skip(f"SKIPPED FOR LACK OF {text}")
    return unshare


class PageRun:
    """The blocks of a page, or of several, run in order by one shell: variables and background programs last."""

    def __init__(self, pages: Sequence[str], folder: Path) -> None:
        """Begins at once; ``finish`` waits."""
        self.pages = pages
        found = [block for page in pages for block in blocks(page)]
        self.blocks = [block for block in found if block.language == "sh" and not block.not_run]
        self._printed: list[tuple[Block, str]] | None = None
        self._harness = folder / "harness"
        self._harness.mkdir()
        home = folder / "home"
        home.mkdir()
        if any("pip install" in block.text for block in self.blocks):
            copy_checkout(home / "checkout")
        self._working = home / "checkout" if (home / "checkout").exists() else home
        self._programs(folder / "bin")
        if INSTALLED in pages:
            prefix = self._harness / "opt" / "greenagent"
            shutil.copytree(folder / "bin", prefix / "bin")
            shutil.copytree(ROOT / "etc", prefix / "share" / "greenagent")
        for name, text in files(pages).items():
            (self._working / name).write_text(text)
        (self._harness / "page.sh").write_text(self._script())
        with (self._harness / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [needs_namespaces(), *UNSHARE, "sh", self._harness / "page.sh"],
                cwd=self._working,
                env=self._environment(folder, home),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _script(self) -> str:
        script = NAMESPACE
        texts = [block.text for block in self.blocks]
        if self.pages == SERVED:
            texts[:0] = [SERVICES, FIRST_CONTACT]
        self._first = len(texts) - len(self.blocks)
        for number, text in enumerate(texts):
            (self._harness / f"{number}.sh").write_text(text)
            script += BLOCK.format(number=number)
            for program in started(text):
                script += WAIT.format(number=number, program=program, text=READY[program])
        return script + "echo end > $HARNESS/begun\n"

    def _programs(self, folder: Path) -> None:
        """Those of this checkout, by the names they have when they are installed."""
        folder.mkdir()
        for module, name in PROGRAMS.items():
            path = folder / name
            path.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m greenagent.cli.{module} "$@"\n')
            path.chmod(0o755)

    def _environment(self, folder: Path, home: Path) -> dict[str, str]:
        environment = {
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PYTHON": sys.executable,
            "HARNESS": str(self._harness),
        }
        if self._working != home:
            environment |= offline_pip(folder)
        return environment

    def finish(self) -> list[tuple[Block, str]]:
        """Each block with what it printed. Fails the test with that where one of them failed."""
        if self._printed is not None:
            return self._printed
        try:
            wait_until(lambda: self.process.poll() is not None, TIME, f"the end of {self.pages}")
        finally:
            self.end()
        begun = (self._harness / "begun").read_text().strip() if (self._harness / "begun").exists() else "none"
        log = (self._harness / "log").read_text()
        if self.process.returncode or begun != "end":
            number = int(begun) - self._first if begun.isdigit() else -1
            place = self.blocks[number].place if number >= 0 else self.pages
            printed = self._harness / f"{begun}.out"
            output = printed.read_text() if printed.exists() else ""
            pytest.fail(f"{place} ends with {self.process.returncode}:\n{output}{log}", pytrace=False)
        self._printed = [
            (block, without_waiting((self._harness / f"{number}.out").read_text()))
            for number, block in enumerate(self.blocks, self._first)
        ]
        return self._printed

    def end(self) -> None:
        """The namespace goes with its first process, and everything in it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def started(text: str) -> list[str]:
    """The programs of ours that a block leaves in the background."""
    joined = text.replace("\\\n", " ")
    return re.findall(rf"^({'|'.join(READY)}) (?!.*--detach)[^\n]*&(?= *(?:#.*)?$)", joined, re.MULTILINE)


def files(pages: Sequence[str]) -> dict[str, str]:
    """Files that the reader has by then, by what the pages say around the commands."""
    first = first_configuration()
    if "docs/security.md" in pages:
        own = next(block.text for block in blocks("docs/security.md") if block.language == "toml")
        return {"greenagent.toml": re.sub(r"\[controllers\.main\]\n[^\[]*", own + "\n", first)}
    return {"greenagent.toml": first}


def offline_pip(folder: Path) -> dict[str, str]:
    """Variables by which pip finds what greenagent needs in this test's Python instead of at an index."""
    packages = folder / "packages"
    packages.mkdir()
    here = Path(pytest.__file__).parents[1]
    for path in here.iterdir():
        if not path.name.startswith(("greenagent", "__editable__", "pip", "__pycache__")) and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    return {
        "PYTHONPATH": str(packages),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it so: the switch is off
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_CACHE_DIR": "1",
    }
