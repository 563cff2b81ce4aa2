"""A model of the user: read from a file or given in Python, and known again by what it says."""
