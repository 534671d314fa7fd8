"""Every shell block of README.md and docs/*.md runs, in order, and prints what the page says it prints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import needs
from tests.docs.machine import SERVED, PageRun, needs_namespaces
from tests.docs.pages import PAGES, Block, blocks

ALL = {page: blocks(page) for page in PAGES}
LANGUAGES = {"sh", "output", "text", "toml", "ini", "python", "json"}
RUN = [page for page in PAGES if any(b.language == "sh" and not b.not_run for b in ALL[page])]
NOT_RUN_AT_MOST = 5
COMMAND = re.compile(
    r"\s*(?:\$ |sudo |(?:\S*/)?(?:greenagent(?:-\w+)?|pip3?|python3?|systemctl|service|cp|install|mkdir|scripts/\w+) )"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, PageRun]]:
    """All machines at once: they wait most of the time."""
    needs_namespaces()
    needs("openssl")
    machines = [SERVED, *((page,) for page in RUN if page not in SERVED)]
    started = [PageRun(pages, tmp_path_factory.mktemp(Path(pages[0]).stem)) for pages in machines]
    yield {page: run for run in started for page in run.pages}
    for run in started:
        run.end()


@pytest.mark.timeout(900)  # all pages run at once, and the first test waits for them
@pytest.mark.parametrize("page", RUN)
def test_the_blocks_run_in_order(page: str, runs: dict[str, PageRun]) -> None:
    expected = outputs(page)
    wrong = [
        f"{block.place} prints:\n{printed}instead of:\n{expected[block]}"
        for block, printed in runs[page].finish()
        if block in expected and not matches(expected[block], printed)
    ]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def outputs(page: str) -> dict[Block, str]:
    """What the page says that a block prints: the block behind it, of language ``output``."""
    found = {}
    for before, block in zip(ALL[page], ALL[page][1:], strict=False):
        if block.language == "output":
            assert before.language == "sh", f"{block.place} is the output of no command"
            found[before] = block.text
    return found


def matches(wanted: str, printed: str) -> bool:
    """Equal, where ``...`` stands for any text of a line, and alone on a line for any lines."""
    pattern = re.escape(wanted).replace(re.escape("...") + "\\\n", "(?:.*\n)*").replace(re.escape("..."), ".*")
    return re.fullmatch(pattern, printed) is not None


@pytest.mark.parametrize(
    ("wanted", "printed", "is_so"),
    [
        ("a\n", "a\n", True),
        ("a\n", "b\n", False),
        ("a ... c\n", "a b c\n", True),
        ("a\n...\nz\n", "a\nb\nc\nz\n", True),
        ("a ... c\n", "a\nc\n", False),
    ],
)
def test_output_is_compared_line_by_line(wanted: str, printed: str, is_so: bool) -> None:
    assert matches(wanted, printed) is is_so


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    """So that no command hides in a block that nobody runs."""
    for block in ALL[page]:
        assert block.language in LANGUAGES, f"{block.place}: a block of language {block.language!r}"
        if block.language in {"text", "ini", "json"}:
            found = [line for line in block.text.splitlines() if COMMAND.match(line)]
            assert not found, f"{block.place}: commands belong into a block of language sh: {found}"
        assert not re.search(r"^\$ ", block.text, re.MULTILINE), f"{block.place}: leave out the prompt"


def test_what_is_not_run_has_a_reason() -> None:
    left_out = [block for page in PAGES for block in ALL[page] if block.not_run]
    assert len(left_out) <= NOT_RUN_AT_MOST, [f"{block.place}: {block.not_run}" for block in left_out]
    for block in left_out:
        assert block.language == "sh", f"{block.place}: only shell blocks are run"
        assert len(block.not_run) > 20, f"{block.place}: say why"
    comments = sum((Path(__file__).parents[2] / page).read_text().count("<!-- not run") for page in PAGES)
    assert comments == len(left_out), "a comment 'not run' stands above no block"
