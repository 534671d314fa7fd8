"""Statistics: statsd lines, aggregation, metering, the agent's own metrics, and the server that shows them.

Imports values and runtime only.
"""
