"""Faults on purpose: kills, damaged files, lost workers, full disks. `scripts/attack.py` is it."""
