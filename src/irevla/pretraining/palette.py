"""Colours with names, and those that belong to the benchmark's held-out tasks."""

import functools
from collections.abc import Sequence

import numpy as np

from irevla.envs.metaworld_tasks import SPECS

RGB = tuple[float, float, float]

NAMED: dict[str, RGB] = {
    "red": (0.75, 0.08, 0.08),
    "green": (0.10, 0.55, 0.15),
    "blue": (0.10, 0.25, 0.80),
    "yellow": (0.85, 0.75, 0.10),
    "orange": (0.90, 0.45, 0.05),
    "purple": (0.45, 0.15, 0.60),
    "pink": (0.90, 0.50, 0.65),
    "brown": (0.38, 0.22, 0.10),
    "teal": (0.05, 0.60, 0.60),
    "black": (0.06, 0.06, 0.07),
    "white": (0.92, 0.92, 0.92),
    "grey": (0.50, 0.50, 0.50),
}
JITTER = 0.06  # standard deviation of a colour around its name, in each channel
# an object's colours keep at least this distance (in RGB, 0..1) from those of its variants
HELD_OUT = 0.25


def draw(rng: np.random.Generator, avoid: Sequence[RGB] = ()) -> tuple[str, RGB]:
    """A random colour and its name, at least `HELD_OUT` away from all of `avoid`."""
    while True:
        name = str(rng.choice(list(NAMED)))
        rgb = np.clip(np.array(NAMED[name]) + JITTER * rng.standard_normal(3), 0.0, 1.0)
        if all(np.linalg.norm(rgb - other) >= HELD_OUT for other in avoid):
            return name, (float(rgb[0]), float(rgb[1]), float(rgb[2]))


@functools.cache
def held_out(materials: tuple[str, ...]) -> tuple[RGB, ...]:
    """Every colour of the variants (RL and unseen tasks) of an object that is made of one of these
    materials.

    The object is then painted in none of them, in whichever scene it stands: no button is green, be
    it pressed from the front or from above. Other objects may be.
    """
    variants = [
        spec.variant for spec in SPECS.values() if set(spec.variant.recolour) & set(materials)
    ]
    colours = {rgb for variant in variants for rgb in variant.recolour.values()}
    return tuple(
        sorted(colours | {variant.handle.colour for variant in variants if variant.handle})
    )
