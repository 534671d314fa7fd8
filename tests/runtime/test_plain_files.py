"""Files that are read while others depend on us: nothing but a plain file is waited for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from greenagent.runtime.locks import lock_holder
from greenagent.runtime.plain_files import UnfitFileError, open_plain, read_plain
from tests.support.programs import environment


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


OTHERS: dict[str, Callable[[Path], None]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "socket": _socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
}
"""What may lie in the place of a file, and how it is made."""


@pytest.mark.parametrize("kind", OTHERS)
def test_anything_but_a_plain_file_is_refused_at_once(tmp_path: Path, kind: str, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    OTHERS[kind](path)
    for pipe_given in (False, True):
        with pytest.raises(UnfitFileError) as raised:
            open_plain(path, pipe_given=pipe_given)
        assert (raised.value.strerror, raised.value.filename) == (f"it is a {kind}, not a file", str(path))
    assert lock_holder(path) == ""


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to("file")
    assert read_plain(tmp_path / "link", 1000) == b"x" * 1000
    with pytest.raises(UnfitFileError, match="it is larger than 999 bytes"):
        read_plain(tmp_path / "file", 999)
    with pytest.raises(UnfitFileError, match="it is larger than 10 bytes"):
        read_plain(Path("/proc/self/status"), 10)  # whose size is told as 0
    with pytest.raises(FileNotFoundError):
        read_plain(tmp_path / "missing", 10)


def test_a_pipe_that_a_shell_hands_over_is_read_where_it_may_be(tmp_path: Path) -> None:
    """Its writer is waited for; a pipe with a name is anybody's, and so is refused there, too."""
    code = (
        "from pathlib import Path\nfrom greenagent.runtime.files import read_token\n"
        "from greenagent.runtime.plain_files import read_plain\n"
        "print(read_token(Path('/dev/stdin'), pipe_given=True))\n"
        "try:\n    read_plain(Path('/dev/stdin'), 100)\nexcept OSError as error:\n    print(error.strerror)\n"
    )
    done = subprocess.run(
        ["sh", "-c", f'(sleep 0.3; echo secret) | "{sys.executable}" -c "$0"', code],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("secret\nit is a pipe, not a file\n", "")
