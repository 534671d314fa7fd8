"""Values: what commands, results, messages and levels are. Imports nothing else of greenagent."""
