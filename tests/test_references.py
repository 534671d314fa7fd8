"""Every reference to a document in code, tests and documentation leads to a heading that exists."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOOKED_THROUGH = ("greenagent", "tests", "scripts", "benchmarks", "docs", "etc", "README.md", "setup.py")
NUMBERS = r"(\d+(?:\.\d+)?(?:(?:, | and | or )\d+(?:\.\d+)?)*)"
PROTOCOL = re.compile(rf"\bprotocol(?:\.md, sections?)? {NUMBERS}")
DESIGN = re.compile(rf'\bdesign(?:\.md)?,? sections? {NUMBERS}(?:,? "([^"]+)")?')
WITH_SUBHEADINGS = "5"
"""The section whose references name a subheading: it is long, and its number alone leads nowhere."""
PROMISE = re.compile(rf"\bdesign, promises? {NUMBERS}")
ISSUE = re.compile(r"\(issues?\b|\bissues? \d", re.IGNORECASE)
PAGE = re.compile(r"\bdocs/[\w./-]+\.(?:md|json|png)\b|\]\(([\w./-]+\.md)(?:#[\w-]+)?\)")


def texts() -> list[tuple[str, str]]:
    """Every file that is looked through: its name, and its text with wrapped lines joined."""
    listed = subprocess.run(["git", "ls-files", "-z", *LOOKED_THROUGH], cwd=ROOT, capture_output=True, check=False)
    names = [name for name in listed.stdout.decode().split("\0") if name]
    if not names:  # an unpacked source archive
        names = [
            str(path.relative_to(ROOT))
            for top in LOOKED_THROUGH
            for path in ([ROOT / top] if (ROOT / top).is_file() else sorted((ROOT / top).rglob("*")))
            if path.suffix in {".py", ".md", ".toml", ".sh"} or not path.suffix
        ]
    found = []
    for name in names:
        path = ROOT / name
        if path.is_file() and name != "tests/test_references.py":
            try:
                text = path.read_text()
            except UnicodeDecodeError:
                continue
            found.append((name, re.sub(r"\s*\n\s*(?:#+ )?", " ", text)))
    assert len(found) > 200
    return found


def headings(page: str) -> set[str]:
    """The numbers that headings begin with; a heading without one as its section and text: ``5 Ending``."""
    found: set[str] = set()
    section = ""
    for line in (ROOT / "docs" / page).read_text().splitlines():
        if heading := re.match(r"#+ (.+)", line):
            if number := re.match(r"(\d+(?:\.\d+)?)[. ]", heading[1]):
                section = number[1]
                found.add(section)
            else:
                found.add(f"{section} {heading[1]}")
    return found


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", text)


TEXTS = texts()


def test_references_to_the_protocol_resolve() -> None:
    known = headings("protocol.md")
    used = [(name, number) for name, text in TEXTS for match in PROTOCOL.finditer(text) for number in numbers(match[1])]
    assert len(used) > 60
    assert [(name, number) for name, number in used if number not in known] == []


def test_references_to_the_design_resolve() -> None:
    known = headings("design.md")
    used = [
        (name, f"{number} {match[2]}" if match[2] else number)
        for name, text in TEXTS
        for match in DESIGN.finditer(text)
        for number in numbers(match[1])
    ]
    assert len(used) > 40
    assert [(name, place) for name, place in used if place not in known] == []


def test_references_to_the_rulings_name_their_subheading() -> None:
    bare = [
        (name, match[0])
        for name, text in TEXTS
        for match in DESIGN.finditer(text)
        if WITH_SUBHEADINGS in numbers(match[1]) and not match[2]
    ]
    assert bare == []


def test_references_to_promises_resolve() -> None:
    section = (ROOT / "docs" / "design.md").read_text().split("## 2. ")[1].split("\n## ")[0]
    known = set(re.findall(r"^(\d+)\. ", section, re.MULTILINE))
    used = [(name, number) for name, text in TEXTS for match in PROMISE.finditer(text) for number in numbers(match[1])]
    assert used
    assert [(name, number) for name, number in used if number not in known] == []


@pytest.mark.parametrize(("name", "text"), TEXTS, ids=[name for name, _ in TEXTS])
def test_nothing_refers_to_what_is_not_here(name: str, text: str) -> None:
    assert not ISSUE.search(text), "issues are not part of the repository"
    for match in PAGE.finditer(text):
        page = ROOT / "docs" / match[1] if match[1] and name.startswith("docs/") else ROOT / (match[1] or match[0])
        assert page.exists(), f"{match[0]} does not exist"
