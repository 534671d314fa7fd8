"""The agent as a whole: composed of the rooms, watched over, stopped in order.

Imports everything but the command line.
"""
