"""docs/configuration.md says what the declarations say."""

from pathlib import Path

from greenagent.settings.document import configuration_page
from greenagent.settings.models import MODELS
from greenagent.settings.schema import declared

PAGE = Path(__file__).parent.parent.parent / "docs" / "configuration.md"


def test_the_page_is_what_the_table_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == configuration_page(), "run: python -m greenagent.settings.document > docs/configuration.md"
    for model in MODELS:
        part = text.split(f"## `[{model.section.pattern}]`")
        assert len(part) > 1, model
        for name in declared(model):
            assert any(f"\n| `{name}` |" in piece.split("\n## ")[0] for piece in part[1:]), name
