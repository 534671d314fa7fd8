"""What jobs have begun to print and not ended, as it is shown to people who follow."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from typing import Final, Generic, TypeVar

Text = TypeVar("Text")

UNFINISHED: Final = " [unfinished]"
"""Stands behind text that is no line yet."""
STILL: Final = 1.5
"""Seconds for which a text has not changed when it is shown again: a progress bar is not shown at each step."""


class Unfinished(Generic[Text]):
    """Each open text is news when it is seen first, and again whenever it stands still."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[Text, float]] = {}
        self._shown: dict[Hashable, Text] = {}

    def news(self, found: Mapping[Hashable, Text]) -> list[Text]:
        """``found``: what is open now; keys tell one text from the next of its stream. What is whole is a line."""
        now = time.monotonic()
        seen: dict[Hashable, tuple[Text, float]] = {}
        new: list[Text] = []
        for key, text in found.items():
            before = self._seen.get(key)
            seen[key] = (text, before[1] if before is not None and before[0] == text else now)
            if key not in self._shown or (text != self._shown[key] and now - seen[key][1] >= STILL):
                self._shown[key] = text
                new.append(text)
        self._seen = seen
        self._shown = {key: text for key, text in self._shown.items() if key in found}
        return new

    @property
    def awaits(self) -> bool:
        """True while something has changed since it was shown: it is to be looked at soon, though nothing new comes."""
        return any(self._shown.get(key) != text for key, (text, _) in self._seen.items())
