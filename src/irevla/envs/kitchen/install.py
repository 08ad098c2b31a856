"""Whether what the suite `kitchen` needs is installed."""

from irevla.envs.suite import check_packages


def check() -> None:
    """Raise `UserError` with the remedy where a package or a GL library is missing."""
    check_packages(
        "Franka Kitchen", "gymnasium_robotics", "mujoco", "fast_simplification", extra="kitchen"
    )
    from irevla.envs import render

    render.check_gl()
