"""Engines: what computes a model, how each is built, and which one is chosen."""
