"""Statistics: statsd lines, aggregation, metering, the agent's own figures, and who may read them.

Imports values and runtime only.
"""
