"""Policy x environments -> episodes."""
