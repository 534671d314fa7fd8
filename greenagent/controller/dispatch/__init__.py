"""Which agent gets which command, and what becomes of it."""
