"""The ledger: what was said and done, in SQL, on SQLite or PostgreSQL.

One small repository for each aggregate, all on the one `Ledger` that owns the connections.
`journal.py` is the step protocol: the only way to perform a step.
"""
