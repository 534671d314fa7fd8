"""The spool: a row for every accepted job, and its results until their controller has them.

Its file is the one that ``main.ledger_file`` names: what is said to people calls it the ledger.

The *outbox* is what waits for a controller (table ``outcome``). A *dead letter* is what a controller refused for good
(table ``aside``; "set aside" in what is said to people). The command ``greenagent-logs outbox`` shows the dead letters,
not the outbox: its name is kept.
"""
