"""The agent does not load what it never uses."""

from __future__ import annotations

import subprocess
import sys


def test_requests_comes_without_its_guessers_of_encodings_and_they_can_still_be_imported():
    program = (
        "import greenagent.cli.agent.run, requests, sys\n"
        "assert 'charset_normalizer' not in sys.modules and 'chardet' not in sys.modules\n"
        "import charset_normalizer"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
