"""Chaos: processes are killed at random while effects are done, and a book outside the engine counts them."""
