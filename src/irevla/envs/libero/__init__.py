"""The suite `libero`."""
