"""What the spaces of anybody's gymnasium environment offer: images, a state, bounds of actions."""

from typing import Any

import gymnasium as gym
import numpy as np

from irevla.envs.gym.settings import RENDER, GymSettings
from irevla.envs.suite import ActionRange
from irevla.errors import UserError

UNBOUNDED = 1e30  # a bound beyond it is none: some write the largest number that there is


def state_names(space: gym.Space[Any], settings: GymSettings) -> tuple[str, ...]:
    """Return a name for each number of the state that the settings name.

    Raises `UserError` where there is none.
    """
    if not settings.state:
        return ()
    for key in settings.state.split("."):
        if not isinstance(space, gym.spaces.Dict) or key not in space.spaces:
            has = ", ".join(space.spaces) if isinstance(space, gym.spaces.Dict) else str(space)
            raise UserError(f"{settings.id} has no state {settings.state!r}: there is {has}")
        space = space[key]
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise UserError(f"{settings.id}: the state {settings.state!r} is {space}, and no vector")
    return tuple(f"{settings.state} {number}" for number in range(space.shape[0]))


def check_image_space(space: gym.Space[Any], path: str, settings: GymSettings) -> None:
    """Raise `UserError` unless observations have the image that the settings name."""
    for key in path.split(".") if path else ():
        if not isinstance(space, gym.spaces.Dict) or key not in space.spaces:
            raise _no_image(space, path, settings)
        space = space[key]
    if not (
        isinstance(space, gym.spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and space.shape[2] == 3
        and min(space.shape) > 0
    ):
        raise _no_image(space, path, settings)


def _no_image(space: gym.Space[Any], path: str, settings: GymSettings) -> UserError:
    name = path or "the observation"
    has = ", ".join(space.spaces) if isinstance(space, gym.spaces.Dict) else str(space)
    return UserError(
        f"{settings.id} has no image {name!r}, uint8[height, width, 3]: there is {has}; name the "
        f"key of one as `image` (PART.KEY inside a group), or {RENDER} for what it renders"
    )


def action_range(space: gym.Space[Any], settings: GymSettings) -> ActionRange:
    """Return the bounds of actions. Raises `UserError` for an action that is no bounded vector."""
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise UserError(f"{settings.id} takes actions of {space}, and irevla gives a Box[A]")
    with np.errstate(over="ignore"):  # infinite: refused below
        low = np.asarray(settings.low or space.low, np.float64).astype(np.float32)
        high = np.asarray(settings.high or space.high, np.float64).astype(np.float32)
    if low.shape != space.shape or high.shape != space.shape:
        raise UserError(f"{settings.id} takes {space.shape[0]} numbers, and low or high has others")
    if not (np.abs(low) < UNBOUNDED).all() or not (np.abs(high) < UNBOUNDED).all():
        raise UserError(
            f"{settings.id} takes actions without bounds ({space}): say low and high, one number "
            "for each dimension, in the YAML file"
        )
    if not (low < high).all():
        raise UserError(f"{settings.id}: low must be below high, not {low} and {high}")
    return ActionRange(low, high)
