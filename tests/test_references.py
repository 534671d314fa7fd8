"""Every reference to a document in code, tests and documentation leads to a heading that exists."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOOKED_THROUGH = (
    "greenagent",
    "tests",
    "scripts",
    "benchmarks",
    "docs",
    "etc",
    "README.md",
    "CHANGELOG.md",
    "setup.py",
)
NUMBERS = r"(\d+(?:\.\d+)?(?:(?:, | and | or )\d+(?:\.\d+)?)*)"
PROTOCOL = re.compile(rf"\bprotocol(?:\.md, sections?)? {NUMBERS}")
DESIGN = re.compile(rf'\bdesign(?:\.md)?,? sections? {NUMBERS}(?:,? "([^"]+)")?')
WITH_SUBHEADINGS = "5"
"""The section whose references name a subheading: it is long, and its number alone leads nowhere."""
PROMISE = re.compile(rf"\bdesign, promises? {NUMBERS}")
ISSUE = re.compile(r"\(issues?\b|\bissues? \d", re.IGNORECASE)
LINK = re.compile(r"\]\((?!https?:)([^()#\s]*)(?:#([^()\s]+))?\)")
NAMED = re.compile(r"(?<![\w/.-])(\w[\w-]*\.md)\b")
HEADING = re.compile(r'\b(?:docs/)?([\w-]+\.md),? (?:section )?"([^"]+)"')
SEE = re.compile(r'\bsee "([^"]+)"')
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


def titles(path: Path) -> list[str]:
    """The headings of a page, but for what stands in its blocks."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def anchor(title: str) -> str:
    """The name by which a link within a page leads to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target, name in LINK.findall(page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), f"{target} does not exist"
        assert not name or name in map(anchor, titles(path)), f"{path.name} has no heading {name}"
    for title in SEE.findall(re.sub(r"\s+", " ", page.read_text())):
        assert title in titles(page), f"there is no heading {title!r}"


@pytest.mark.parametrize(("name", "text"), TEXTS, ids=[name for name, _ in TEXTS])
def test_every_page_and_heading_that_is_named_exists(name: str, text: str) -> None:
    for page in NAMED.findall(text):
        places = (ROOT / page, ROOT / "docs" / page, (ROOT / name).parent / page)
        assert any(place.exists() for place in places), f"there is no {page}"
    for page, title in HEADING.findall(text):
        path = ROOT / "docs" / page
        assert title in titles(path if path.exists() else ROOT / page), f"{page} has no heading {title!r}"


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_every_file_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"`((?:benchmarks|docs|etc|greenagent|scripts|tests)/[\w./-]+)", page.read_text())
    assert [name for name in named if not (ROOT / name.rstrip(".")).exists()] == []


def test_the_readme_leads_to_every_page() -> None:
    linked = {target for target, _ in LINK.findall((ROOT / "README.md").read_text())}
    assert {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")} - linked == set()
