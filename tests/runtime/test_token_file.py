"""The file that holds the token of ``/api``."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenagent.runtime.files import read_token
from greenagent.values.errors import GreenagentError


def test_the_token_is_read_without_the_white_space_around_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("  secret-word\n")
    assert read_token(tmp_path / "token") == "secret-word"


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"one\ntwo", "ge\u00e4ndert".encode()])
def test_anything_but_one_word_of_ascii_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(GreenagentError, match=f"the token file {tmp_path}/token must hold one word of ASCII"):
        read_token(tmp_path / "token")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xff")
    for path in (tmp_path / "latin", tmp_path / "missing", tmp_path):
        with pytest.raises(GreenagentError, match=f"cannot read the token file {path}: "):
            read_token(path)
