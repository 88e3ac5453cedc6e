"""Cron lines: what they mean, and how Temporal's schedules are made to fire at exactly those times.

croniter says what a line means (`cron`), with our rule where clocks change; `translation` writes it as a schedule
spec; `matcher` is what the server makes of a spec. Imported by workers/ and by CLI commands that put the engine on the
path. Imports `horarium` and nothing else of the engine.
"""
