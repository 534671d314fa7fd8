"""The fenced blocks of README.md and docs/*.md, and what the pages say about running them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import ROOT

PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
_MARK = re.compile(r"<!-- not run: (.+?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block: ``line`` is that of its fence, ``language`` the word behind it, "" where there is none.

    ``not_run`` is the reason in a comment ``<!-- not run: REASON -->`` on the line above the fence.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = (ROOT / page).read_text().splitlines()
    fence, begun = "", 0
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if fence and text == fence:
            mark = _MARK.fullmatch(lines[begun - 2].strip()) if begun > 1 else None
            inner = "\n".join(lines[begun : number - 1]) + "\n"
            language = lines[begun - 1].strip().removeprefix(fence).strip()
            found.append(Block(page, begun, language, inner, mark[1] if mark else ""))
            fence = ""
        elif not fence and (opened := re.match(r"(`{3,}|~{3,})", text)):
            fence, begun = opened[1], number
    assert not fence, f"{page}:{begun} is never closed"
    return found


def inline_code(page: str) -> list[str]:
    """Every code span of a page outside of blocks, with wrapped lines joined."""
    text = (ROOT / page).read_text()
    text = re.sub(r"^(```|~~~).*?^\1[ \t]*$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def first_configuration() -> str:
    """The configuration that README.md shows to somebody who begins."""
    return next(block.text for block in blocks("README.md") if block.language == "toml")


def copy_checkout(folder: Path) -> None:
    """What an install from a checkout needs, without what was built there."""
    import shutil

    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    for name in ("greenagent", "etc", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "requirements.txt", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
