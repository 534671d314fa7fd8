"""The ledger: a row for every accepted job, and its results until their controller has them."""
