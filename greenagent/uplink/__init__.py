"""Uplink: everything that talks to a controller: HTTP, TLS, backoff, poller, uploaders.

Imports values, runtime and settings only. Spool and log store are handed in.

Importing this package has a side effect: it imports ``requests``, and for that moment hides two modules in
``sys.modules``. This must be the first import of ``requests`` in the process. It stands here because only this room
uses ``requests`` in the agent, and this file runs before any module of the room.
"""

import importlib
import sys
import warnings

_DETECTORS = ("chardet", "charset_normalizer")


def _import_requests() -> None:
    """Imports ``requests`` without what it brings along to guess encodings: 2.6 MiB that nothing here uses.

    Must run before anything else imports ``requests``; harmless afterwards.
    """
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


_import_requests()
