"""The one place that monkey-patches, for entry points to call before they import anything else."""

from __future__ import annotations

from gevent import monkey


def patch() -> None:
    """Makes blocking calls of the standard library cooperative.

    ``subprocess``, ``os`` and ``signal`` stay as they are: patched, they would have libev reap
    children, and the exit codes of jobs would be lost (design, section 3); and ``os.close`` would
    close later than asked.
    """
    if not monkey.is_module_patched("socket"):
        monkey.patch_all(subprocess=False, os=False, signal=False)
