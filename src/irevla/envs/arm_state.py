"""What a simulated Franka says of itself, by name: apart, for a suite imports nothing heavy."""

STATE = (
    *(f"hand {axis}, m" for axis in "xyz"),
    *(f"hand's first axis, {axis}" for axis in "xyz"),
    *(f"hand's second axis, {axis}" for axis in "xyz"),
    "opening, m",
)
"""What an arm says of itself. Two axes of the hand, not a quaternion: that has two signs for one
orientation."""
