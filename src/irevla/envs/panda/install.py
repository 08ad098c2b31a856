"""Whether what the suite `panda-sim` needs is installed."""

from irevla.envs.suite import check_packages


def check() -> None:
    """Raise `UserError` with the remedy where a package or a GL library is missing."""
    check_packages(
        "the Panda on a table", "gymnasium_robotics", "mujoco", "fast_simplification", extra="panda"
    )
    from irevla.envs import render

    render.check_gl()
