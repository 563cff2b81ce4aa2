"""Latents that belong to rows: the evidence and the code of each."""
