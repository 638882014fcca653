"""Workers: several processes that serve as one, and the one that starts them, watches them and ends with them."""
