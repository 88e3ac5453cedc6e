"""Workspaces: the files of a thread, restored on whatever host its tools run, and kept when they change.

What was recorded is the truth, in the ledger and the blob store; a directory on a host is a copy that may be thrown
away. Tool workers use this too, so it imports the public package alone.
"""
