"""What others reach over HTTP: toolboxes as MCP endpoints, behind API keys.

It runs no tools and holds no state that matters: each call is a run, which an engine worker carries out.
"""
