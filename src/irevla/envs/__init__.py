"""Suites of tasks, how they are drawn, and many of them at once."""
