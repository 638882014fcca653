"""Front ends that speak HTTP and decode, beside one process that has the device: what is between them."""
