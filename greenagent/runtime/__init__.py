"""Runtime: what every part stands on: native threads, supervised greenlets, files, the agent's own voice.

Imports values only.
"""
