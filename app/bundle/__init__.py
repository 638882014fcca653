"""Bundles: one model with its labels, preprocessing and golden samples in a checksummed, read-only directory."""
