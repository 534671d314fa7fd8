"""Level lists mean what the shared vectors say (protocol 2.3, design, section 5 "Messages and logs")."""

import json
from pathlib import Path

import pytest

from greenagent.values.errors import LevelError
from greenagent.values.levels import parse_levels

VECTORS = [json.loads(line) for line in (Path(__file__).parents[1] / "vectors/levels.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: json.dumps(vector["levels"]))
def test_level_list(vector: dict) -> None:
    means = vector["means"]
    if means == "refused":
        with pytest.raises(LevelError):
            parse_levels(vector["levels"])
        return
    levels = parse_levels(vector["levels"])
    if means == "default":
        assert levels is None
    elif means == "all":
        assert levels is not None
        assert levels.everything
    else:
        assert levels is not None
        assert [level for low, high in levels.ranges for level in range(low, high + 1)] == means
