"""greenagent: a node agent that runs the jobs its controllers hand out and loses nothing of them."""

__version__ = "0.2.0.dev0"
