"""Every test here may ask for a started ledger and for what it says."""

from tests.support.spools import agent_log, spool

__all__ = ["agent_log", "spool"]
