"""Random sequences of what can happen to jobs: none is lost, none runs twice, no process is left."""

from __future__ import annotations

import os
from pathlib import Path

from gevent.pool import Pool

from tests.model.sequences import run_sequence

SEQUENCES = int(os.environ.get("MODEL_SEQUENCES", "25"))
FIRST_SEED = int(os.environ.get("MODEL_SEED", "1"))
STEPS = 10
AT_ONCE = 4
"""An agent mostly waits here, so some run side by side."""


def test_random_sequences_end_as_the_reference_model_says(tmp_path: Path) -> None:
    pool = Pool(AT_ONCE)
    seeds = range(FIRST_SEED, FIRST_SEED + SEQUENCES)
    failures = [
        text
        for text in pool.imap_unordered(lambda seed: run_sequence(seed, tmp_path / str(seed), STEPS), seeds)
        if text
    ]
    assert not failures, f"{len(failures)} of {SEQUENCES} sequences failed\n" + "\n\n".join(failures)
