"""The original clients of both generations, unchanged: they speak with this controller through a Redis."""
