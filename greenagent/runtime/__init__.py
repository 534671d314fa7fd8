"""Runtime: what every part stands on: native threads, supervised greenlets, files, the agent's own agent_log.

Imports values only.
"""
