"""The start: what happens from the settings to a model that serves."""
