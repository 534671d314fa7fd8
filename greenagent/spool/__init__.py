"""The spool: a row for every accepted job, and its results until their controller has them.

Its file is the one that ``main.ledger_file`` names: what is said to people calls it the ledger.
"""
