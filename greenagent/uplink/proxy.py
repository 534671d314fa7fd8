"""Through which proxy a controller is reached: the variables of the environment say it, as they do for curl.

What is on this machine is always asked directly: no proxy could lead there, and the variables are often set for
everything.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import requests.utils

from greenagent.values.text import is_loopback


def proxies_for(url: str) -> dict[str, str]:
    """The proxies by scheme that ``requests`` is to choose from for a URL; empty where it is asked directly."""
    if is_loopback(urlsplit(url).hostname or ""):
        return {}
    found: dict[str, str] = requests.utils.get_environ_proxies(url)
    return found


def proxy_variable(url: str) -> str:
    """The variable that names the proxy for a URL, such as ``https_proxy``; an empty text where there is none."""
    chosen = requests.utils.select_proxy(url, proxies_for(url))
    if chosen is None:
        return ""
    scheme = urlsplit(url).scheme.lower()
    names = [f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"]
    return next((name for name in names if os.environ.get(name, "") == chosen), "the environment")
