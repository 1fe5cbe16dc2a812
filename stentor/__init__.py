"""The Stentor playground: generation, evaluation and the run folder. See README.md for the map."""

__version__ = "0.1.0"
