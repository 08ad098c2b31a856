"""Whether what the suite `metaworld` needs is installed."""

from irevla.envs.suite import check_packages


def check() -> None:
    """Raise `UserError` with the remedy where a package or a GL library is missing."""
    check_packages("Meta-World", "metaworld", "mujoco", "fast_simplification", extra="metaworld")
    from irevla.envs import render

    render.check_gl()
