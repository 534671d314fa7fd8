"""Schedules: commands that the controller posts by itself, and when."""
