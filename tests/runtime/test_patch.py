"""What patching costs each start."""

from __future__ import annotations

import subprocess
import sys


def test_patching_does_not_search_the_metadata_of_installed_packages() -> None:
    program = (
        "import sys\n"
        "from greenagent.runtime.patch import patch\n"
        "patch()\n"
        "assert 'importlib.metadata' not in sys.modules\n"
        "import socket, gevent.socket\n"
        "assert socket.create_connection is gevent.socket.create_connection"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
