"""Mounts that only one command sees: small disks and read-only folders, without being root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.programs import ROOT


def run_with_mount(mount: str, script: str, **variables: object) -> str:
    """Runs two shell scripts, the first of which mounts, in a mount namespace; returns all that was printed.

    ``variables`` and ``PYTHON`` are in the environment. Skips loudly where user namespaces are not
    allowed, fails then under CI=true.
    """
    unshare = shutil.which("unshare")
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        **{name: str(value) for name, value in variables.items()},
    }
    allowed = unshare and subprocess.run([unshare, "-rm", "sh", "-c", mount], env=environment, capture_output=True)
    if not unshare or not allowed or allowed.returncode:
        if os.environ.get("CI") == "true":
            pytest.fail("mounts in a user namespace (unshare -rm) are needed under CI=true")
        pytest.skip("SKIPPED FOR LACK OF unshare -rm: allow user namespaces to run this test")
    done = subprocess.run(
        [unshare, "-rm", "sh", "-c", f"{mount} && {script}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr
