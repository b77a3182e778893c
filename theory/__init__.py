"""Closed forms, exact laws and decided claims about corruption in diffusion models."""
