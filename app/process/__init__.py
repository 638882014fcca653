"""The process: what each has for itself, its life, its log, its figures, and what the machine lends it."""
