"""Runtime: what every part stands on: native threads, supervised greenlets, files, the agent's own log.

Imports values only.
"""
