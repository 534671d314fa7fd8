"""Memory, descriptors, threads and greenlets stay flat under a mixed load: scripts/soak, shortened."""

from __future__ import annotations

from tests.support.processes import ROOT, run_script


def test_a_short_soak_stays_flat() -> None:
    done = run_script(ROOT / "scripts" / "soak.py", "--minutes", "0.25", timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    for figure in ("rss_mb", "descriptors", "threads", "greenlets"):
        assert f"{figure}: " in done.stdout
    assert "IT RISES" not in done.stdout
