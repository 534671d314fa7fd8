"""The environment of a job (protocol 5.2; design, section 5).

It is not inherited. The caller's variables may replace any of ours but the job's tag, by which the
agent finds its own again after a crash.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from greenagent.process.tags import VARIABLE
from greenagent.settings.models import ControllerSettings

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def search_path() -> str:
    """The PATH that executables are looked up in, and that children get: the agent's own or a sane one."""
    return os.environ.get("PATH") or DEFAULT_PATH


def child_environment(
    wanted: Mapping[str, str], tag: str, gid: int, nid: int, controller: ControllerSettings | None
) -> dict[str, str]:
    """All variables of one run; ``controller`` is who asked for it, None for startup tasks."""
    environment = {
        "PATH": search_path(),
        "HOME": os.environ.get("HOME") or str(Path.home()),
        "AGENT_HOME": str(Path.cwd()),
        "AGENT_GID": str(gid),
        "AGENT_NID": str(nid),
    }
    if controller is not None:
        security = controller.security
        environment |= {
            "AGENT_CONTROLLER_URL": controller.url,
            "AGENT_CONTROLLER_NAME": controller.key,
            "AGENT_CONTROLLER_CA": _absolute(security.certificate_authority),
            "AGENT_CONTROLLER_CLIENT_CERT": _absolute(security.client_certificate),
            "AGENT_CONTROLLER_CLIENT_CERT_KEY": _absolute(security.client_certificate_key),
        }
    environment |= wanted
    environment[VARIABLE] = tag
    return environment


def _absolute(path: Path | None) -> str:
    return str(path.absolute()) if path is not None else ""
