"""Compares ways to grow a model, by training each on the very same batches."""
