"""Jobs: from an accepted command to its results: admission, queues, runs, repetition, extensions."""
