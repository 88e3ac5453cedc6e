"""The embedded stack and the project on disk."""
