"""Models: one module for each kind of provider, one interface (base.py) for all."""
