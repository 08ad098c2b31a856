"""Vegetables, made here from a few convex pieces each: contact is with the hull of every piece.

Each lies on the table along x, as long as it is, with z up; the mushroom stands. The origin is
where it is grasped.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from irevla.envs import meshes

RGB = tuple[float, float, float]
Piece = tuple[meshes.Mesh, RGB]
ORANGE = (0.95, 0.45, 0.05)
LEAF = (0.20, 0.50, 0.15)
PURPLE = (0.32, 0.08, 0.42)
BROWN = (0.35, 0.22, 0.10)
TAN = (0.66, 0.48, 0.28)
PALE = (0.95, 0.90, 0.82)
BANANA = (0.98, 0.85, 0.25)
MAIZE = (0.98, 0.80, 0.12)
PEAR = (0.70, 0.78, 0.22)
CUCUMBER = (0.12, 0.38, 0.12)
LEMON = (0.97, 0.90, 0.20)
STRAWBERRY = (0.85, 0.10, 0.15)
# Turns the axis of revolution from z to x.
LIE = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])


def _turned(radii: Sequence[float], along: Sequence[float], *, bend: float = 0.0) -> meshes.Mesh:
    """A body of revolution around x through rings of `radii` (m) at `along` (m), its axis bent to y
    by `bend` x^2 (bend in 1/m)."""
    vertices, faces = meshes.revolve(np.array(radii), np.array(along))
    vertices = vertices @ LIE.T
    vertices[:, 1] += bend * vertices[:, 0] ** 2
    return vertices.astype(np.float32), faces


def eggplant() -> list[Piece]:
    """Thick at one end, with a green cap at the other."""
    body = _turned(
        [0.0, 0.017, 0.025, 0.027, 0.025, 0.020, 0.016, 0.0],
        [-0.05, -0.045, -0.03, -0.01, 0.01, 0.03, 0.05, 0.062],
        bend=1.5,
    )
    cap = _turned([0.019, 0.017, 0.006, 0.005, 0.0], [0.045, 0.058, 0.066, 0.084, 0.085], bend=1.5)
    return [(body, PURPLE), (cap, LEAF)]


def carrot() -> list[Piece]:
    """A cone with leaves."""
    root = _turned(
        [0.0, 0.004, 0.011, 0.017, 0.020, 0.012, 0.0],
        [-0.08, -0.075, -0.04, 0.0, 0.03, 0.042, 0.045],
    )
    leaves = [
        _turned([0.004, 0.008, 0.005, 0.0], [0.035, 0.06, 0.08, 0.085], bend=b)
        for b in (-2.0, 0.0, 2.0)
    ]
    return [(root, ORANGE), *((leaf, LEAF) for leaf in leaves)]


def pear() -> list[Piece]:
    """A belly, a neck and a stalk."""
    belly = _turned(
        [0.0, 0.018, 0.027, 0.029, 0.025, 0.015, 0.0],
        [-0.03, -0.026, -0.012, 0.003, 0.018, 0.032, 0.036],
    )
    neck = _turned([0.024, 0.017, 0.013, 0.0], [0.015, 0.035, 0.05, 0.056])
    stalk = _turned([0.003, 0.003, 0.0], [0.05, 0.072, 0.073])
    return [(belly, PEAR), (neck, PEAR), (stalk, BROWN)]


def banana() -> list[Piece]:
    """An arc."""
    edges = [-0.07, -0.035, 0.0, 0.035, 0.07]
    bend = 5.0
    radius = {-0.07: 0.010, -0.035: 0.016, 0.0: 0.018, 0.035: 0.016, 0.07: 0.010}
    arc = [
        _turned([0.0, radius[a], radius[b], 0.0], [a - 0.001, a, b, b + 0.001], bend=bend)
        for a, b in pairwise(edges)
    ]
    tips = [
        _turned([0.0, 0.009, 0.006, 0.0], [a, a, b, b], bend=bend)
        for a, b in ((0.07, 0.085), (-0.08, -0.07))
    ]
    return [*((part, BANANA) for part in arc), *((tip, BROWN) for tip in tips)]


def potato() -> list[Piece]:
    """An uneven lump."""
    radii = [0.0, 0.020, 0.026, 0.027, 0.024, 0.018, 0.0]
    vertices, faces = _turned(radii, [-0.042, -0.034, -0.015, 0.0, 0.018, 0.033, 0.042])
    x, y, z = (vertices / 0.03).T
    lump = 1 + 0.06 * np.sin(2.1 * x + 1.3 * y) + 0.05 * np.cos(2.7 * y - 1.7 * z + 1.0)
    return [(((vertices * lump[:, None]).astype(np.float32), faces), TAN)]


def corn() -> list[Piece]:
    """A cob with its husk open."""
    cob = _turned(
        [0.0, 0.012, 0.018, 0.021, 0.021, 0.0], [-0.085, -0.08, -0.05, -0.015, 0.03, 0.04]
    )
    husk = [_turned([0.021, 0.016, 0.006, 0.0], [0.02, 0.045, 0.065, 0.075])]
    husk += [
        _turned([0.0, 0.006, 0.011, 0.0], [-0.02, 0.0, 0.03, 0.05], bend=b) for b in (-14.0, 14.0)
    ]
    return [(cob, MAIZE), *((leaf, LEAF) for leaf in husk)]


def mushroom() -> list[Piece]:
    """A cap on a stem, upright."""
    cap = meshes.revolve(
        np.array([0.0, 0.018, 0.028, 0.027, 0.018, 0.0]),
        np.array([-0.01, -0.01, -0.006, 0.004, 0.015, 0.02]),
    )
    stem = meshes.revolve(
        np.array([0.0, 0.016, 0.012, 0.0]), np.array([-0.040, -0.040, -0.008, -0.008])
    )
    return [(cap, TAN), (stem, PALE)]


def cucumber() -> list[Piece]:
    """Long, round at both ends and slightly bent."""
    radii = [0.0, 0.012, 0.018, 0.020, 0.020, 0.017, 0.011, 0.0]
    along = [-0.085, -0.078, -0.055, -0.02, 0.02, 0.055, 0.078, 0.085]
    stalk = _turned([0.004, 0.003, 0.0], [0.082, 0.089, 0.090], bend=1.2)
    return [(_turned(radii, along, bend=1.2), CUCUMBER), (stalk, BROWN)]


def lemon() -> list[Piece]:
    """An egg with a nipple at one end, and a stalk at the other."""
    body = _turned(
        [0.0, 0.013, 0.022, 0.026, 0.026, 0.022, 0.013, 0.006, 0.0],
        [-0.036, -0.031, -0.02, -0.006, 0.006, 0.02, 0.031, 0.039, 0.040],
    )
    stalk = _turned([0.0, 0.004, 0.005, 0.0], [-0.044, -0.043, -0.034, -0.033])
    return [(body, LEMON), (stalk, LEAF)]


def strawberry() -> list[Piece]:
    """A small cone with leaves at its blunt end."""
    fruit = _turned(
        [0.0, 0.007, 0.015, 0.020, 0.019, 0.011, 0.0],
        [-0.028, -0.025, -0.010, 0.006, 0.016, 0.022, 0.023],
    )
    leaves = _turned([0.018, 0.010, 0.003, 0.0], [0.018, 0.025, 0.033, 0.034])
    return [(fruit, STRAWBERRY), (leaves, LEAF)]


MAKERS: Mapping[str, Callable[[], list[Piece]]] = {
    maker.__name__: maker
    for maker in (
        *(eggplant, carrot, pear, banana, potato, corn, mushroom),
        *(cucumber, lemon, strawberry),
    )
}


def bottom(pieces: Sequence[Piece]) -> float:
    """How far the lowest vertex is below the origin, m."""
    return -float(min(mesh[0][:, 2].min() for mesh, _ in pieces))
