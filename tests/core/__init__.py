"""The core without a server of Temporal: machine, desk, ledger, definitions."""
