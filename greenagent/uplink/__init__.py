"""Uplink: everything that talks to a controller: transport, TLS, backoff, poller, uploaders.

Imports values, runtime and settings only. Stores that hold what is to be sent are handed in.
"""

from greenagent.uplink.lean import import_requests

import_requests()
