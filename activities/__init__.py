"""Activities: the only place where the outside world is touched.

Each module is one neighbour (models, memory, the run's own bookkeeping). Imported by workers/
to run them; workflows/ knows them by name only. Imports neither.
"""
