"""Any gymnasium environment as a suite, described in a YAML file."""
