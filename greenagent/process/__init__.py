"""Processes: the one path that starts children, and everything about ending them.

Imports values and runtime. Nothing else in the agent starts a process.
"""
