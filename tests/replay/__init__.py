"""Saved histories: what runs of an earlier version wrote, which the workflow of today has to be able to read."""
