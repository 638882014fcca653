"""The process: its life, its log, its figures, and what the machine lends it."""
