"""An ``AgentLog`` that remembers what it logged, for tests."""

from __future__ import annotations

from greenagent.runtime.agent_log import AgentLog


class RecordedLog(AgentLog):
    """Says nothing on stderr and keeps every line as (level, text)."""

    def __init__(self) -> None:
        super().__init__(None)
        self.heard: list[tuple[int, str]] = []
        self.attach(lambda level, text: self.heard.append((level, text)))

    @property
    def lines(self) -> list[str]:
        return [text for _, text in self.heard]
