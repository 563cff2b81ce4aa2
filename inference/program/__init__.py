"""A Pyro program as plain tensor functions: its sites and its density, recorded once."""
