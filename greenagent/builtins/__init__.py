"""The commands that run inside the agent. Importing a module registers its commands."""

from greenagent.builtins import control, machine, messages, processes
from greenagent.builtins.registry import Context, bind, names

__all__ = ["Context", "bind", "control", "machine", "messages", "names", "processes"]
