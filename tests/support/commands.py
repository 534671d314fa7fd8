"""Command objects as a controller hands them out, for the agent 1:10."""

from __future__ import annotations

from typing import Any


def execute(job_id: str, name: str, *args: str, data: str = "", cmd: str = "execute", **more: Any) -> dict[str, Any]:
    """A command object that runs a program; ``more`` are further run arguments."""
    return {
        "id": job_id,
        "gid": 1,
        "nid": 10,
        "cmd": cmd,
        "args": {"name": name, "args": list(args), **more},
        "data": data,
    }


def shell(job_id: str, script: str, **more: Any) -> dict[str, Any]:
    """A command object that runs a shell script."""
    return execute(job_id, "sh", "-c", script, **more)


def built_in(job_id: str, cmd: str, data: str = "", **more: Any) -> dict[str, Any]:
    """A command object of a built-in."""
    return {"id": job_id, "gid": 1, "nid": 10, "cmd": cmd, "args": {}, "data": data, **more}
