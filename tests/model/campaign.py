"""Many seeded sequences, several at once: ``python -m tests.model.campaign --sequences 200 --seed 1``."""

from greenagent.runtime.patch import patch

patch()

import argparse  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

from gevent.pool import Pool  # noqa: E402

from tests.model.sequences import run_sequence  # noqa: E402

STEPS = 10
AT_ONCE = 4
"""An agent mostly waits here, so some run side by side."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="of the first sequence; the others follow")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="greenagent-model-"))
    seeds = range(options.seed, options.seed + options.sequences)
    run = Pool(AT_ONCE).imap_unordered(lambda seed: run_sequence(seed, folder / str(seed), STEPS), seeds)
    failures = [text for text in run if text]
    for text in failures:
        print(text)
    print(f"{options.sequences - len(failures)} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
