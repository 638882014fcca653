"""Processes: several that serve together, and the one that starts them, watches them and ends with them."""
