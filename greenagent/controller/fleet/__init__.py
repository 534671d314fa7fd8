"""The state of a controller that runs as several processes: all of it lies in one Redis."""
