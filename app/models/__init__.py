"""Models: from what people trained, weights and labels, to a network that answers as it did for them."""
