"""Inference: what an image waits for, and what it passes through, between its upload and its answer."""
