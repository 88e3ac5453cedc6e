"""Workflows: deterministic. No clock, no I/O, no dice; what happened comes in as events.

`machine.py` decides what a run does and `desk.py` keeps its approvals, both without Temporal; `agent_run.py` is their
driver. `routine_tick.py` is one tick of a routine, whose attempts are runs.
"""
