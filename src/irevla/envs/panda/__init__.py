"""A Franka Panda on a table: the simulated twin of the paper's third domain, the real arm (section
V-D)."""
