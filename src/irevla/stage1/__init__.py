"""Stage 1 as on a real arm: how soft actor-critic meets the environments (section V-D)."""
