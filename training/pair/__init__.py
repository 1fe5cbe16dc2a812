"""A run's two models packed as a pair, with their figures, cards and a manifest."""
