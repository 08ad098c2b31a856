"""Franka Kitchen: the paper's second benchmark, from pixels and language."""
