"""Uplink: everything that talks to a controller: HTTP, TLS, backoff, poller, uploaders.

Imports values, runtime and settings only. Spool and log store are handed in.

Importing this package imports ``requests``, without its guessers of encodings (``runtime.lean_requests``): this must be
the first import of it in the process. It stands here because only this room uses ``requests`` in the agent, and this
file runs before any module of the room.
"""

from greenagent.runtime.lean_requests import import_requests

import_requests()
