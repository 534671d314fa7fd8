"""Every piece of configuration that a page shows is one: known sections and settings, with values of their types."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from greenagent.settings import load_settings
from tests.docs.pages import PAGES, Block, blocks

PIECES = [block for page in PAGES for block in blocks(page) if block.language == "toml"]
BASE = {
    "main": "[main]\ngid = 1\nnid = 10\n",
    "controllers": '[controllers.main]\nurl = "http://127.0.0.1"\n',
}


@pytest.mark.parametrize("block", PIECES, ids=lambda block: block.place)
def test_a_piece_of_configuration_loads(block: Block, tmp_path: Path) -> None:
    has = set(re.findall(r"^\[(\w+)", block.text, re.MULTILINE))
    text = "".join(lines for section, lines in BASE.items() if section not in has) + block.text
    (tmp_path / "greenagent.toml").write_text(text)
    loaded = load_settings(tmp_path / "greenagent.toml", {}, {}, files=False)
    assert loaded.warnings == ()
    if "main" in has:
        assert loaded.settings.database_logger is not None, "a whole configuration keeps what jobs print"
