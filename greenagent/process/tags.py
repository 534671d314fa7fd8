"""The job's tag: the environment variable by which a job's processes are known wherever they went."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote, unquote

from greenagent.runtime import procfs

VARIABLE = "GREENAGENT_JOB"
"""The environment variable; ``args.env`` cannot override it (design, section 5 "Commands and admission")."""

_VARIABLE = VARIABLE.encode() + b"="


class Tag(NamedTuple):
    """What a tag says: the agent's instance, the job's id and which of its runs."""

    instance: str
    job_id: str
    run: int


def job_tag(instance: str, job_id: str, run: int) -> str:
    """The variable's value: ``<instance>:<percent-encoded id>:<run>``."""
    return f"{instance}:{quote(job_id, safe='', errors='surrogatepass')}:{run}"


def parse_tag(text: str) -> Tag | None:
    """The parts of a value, or None where it is not one of ours."""
    parts = text.split(":")
    if len(parts) != 3 or not parts[0] or not (parts[2].isascii() and parts[2].isdigit()):
        return None
    return Tag(parts[0], unquote(parts[1], errors="surrogatepass"), int(parts[2][:18]))


def is_of(text: str, instance: str) -> bool:
    """Whether a value is a tag of this agent."""
    tag = parse_tag(text)
    return tag is not None and tag.instance == instance


def read_tag(pid: int) -> str | None:
    """The tag in a process's environment; None where there is none or it may not be read."""
    for variable in procfs.read(f"/proc/{pid}/environ").split(b"\0"):
        if variable.startswith(_VARIABLE):
            return variable[len(_VARIABLE) :].decode("utf-8", "backslashreplace")
    return None
