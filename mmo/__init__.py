"""MMO: build a small omni model by hand and hear it speak.  One module per idea; see the course notebooks."""

__version__ = "0.1.0"
