"""A voice that remembers what it said, for tests."""

from __future__ import annotations

from greenagent.runtime.voice import Voice


class HeardVoice(Voice):
    """Says nothing on stderr and keeps every line as (level, text)."""

    def __init__(self) -> None:
        super().__init__(None)
        self.heard: list[tuple[int, str]] = []
        self.attach(lambda level, text: self.heard.append((level, text)))

    @property
    def lines(self) -> list[str]:
        return [text for _, text in self.heard]
