"""Imports ``requests`` without what it brings along to guess encodings: 2.6 MiB, and time, that nothing here uses."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Final

_DETECTORS: Final = ("chardet", "charset_normalizer")


def import_requests() -> None:
    """Must run before anything else imports ``requests``; harmless afterwards. Hides two modules for that moment."""
    if "requests" in sys.modules:
        return
    hidden: list[str] = [name for name in _DETECTORS if name not in sys.modules]
    modules: dict[str, object] = sys.modules  # type: ignore[assignment]
    modules.update(dict.fromkeys(hidden))  # None makes an import fail as if it were not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # requests says that it has none
            importlib.import_module("requests")
    except ImportError:
        pass  # an older one cannot do without: it is imported with them, when it is needed
    finally:
        for name in hidden:
            del modules[name]
