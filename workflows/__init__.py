"""Workflows: deterministic. No clock, no I/O, no dice; what happened comes in as events.

`machine.py` decides and `desk.py` keeps the approvals, both without Temporal; `agent_run.py` is their driver.
"""
