"""Random sequences of what can happen to jobs: none is lost, none runs twice, no process is left.

Hypothesis draws the steps, so that a failing sequence is shrunk to a short one. Longer campaigns of
seeded sequences, several at once: scripts/model-test.
"""

from __future__ import annotations

import itertools
import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.model.sequences import STEPS, Sequence
from tests.support.properties import settings
from tests.support.recording_controller import RecordingController

SEQUENCES = int(os.environ.get("MODEL_SEQUENCES", "10"))
LENGTH = 10
numbers = itertools.count(1)
STEP_NAMES = [name for name, weight in STEPS.items() for _ in range(weight)]


class JobsOfAnAgent(RuleBasedStateMachine):
    """One agent in a folder of its own; after every step it must be where the reference model is."""

    def __init__(self) -> None:
        super().__init__()
        self._sequence: Sequence | None = None

    @initialize()
    def begin(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="greenagent-model-")) / str(next(numbers))
        folder.mkdir()
        self._controller = RecordingController()
        self._controller.start()
        self._sequence = Sequence(random.Random(0), folder, self._controller)
        self._sequence.begin()

    @rule(name=st.sampled_from(STEP_NAMES), choices=st.randoms(use_true_random=False))
    def step(self, name: str, choices: random.Random) -> None:
        assert self._sequence is not None
        self._sequence.step(name, choices)

    def teardown(self) -> None:
        if self._sequence is not None:
            try:
                self._sequence.finish()
            finally:
                self._sequence.end()
                self._controller.stop()


@pytest.mark.timeout(600)
def test_random_sequences_end_as_the_reference_model_says() -> None:
    run_state_machine_as_test(
        JobsOfAnAgent,
        settings=settings(
            max_examples=SEQUENCES,
            stateful_step_count=LENGTH,
        ),
    )
