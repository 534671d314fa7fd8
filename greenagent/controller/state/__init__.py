"""What is kept: in memory, and in the state file before anything is acknowledged."""
