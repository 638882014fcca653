"""Images: what a file is, what decoding it costs, and the pixels that a model sees of it."""
