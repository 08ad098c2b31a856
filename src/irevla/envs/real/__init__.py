"""A real Franka Panda: the paper's third domain (section V-D). Read `docs/real-robot.md` before
anything moves."""
