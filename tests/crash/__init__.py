"""Processes that are killed in mid-run: what was done stays done once, and the run goes on."""
