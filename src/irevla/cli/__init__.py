"""The command line. It composes and never computes."""
