"""One task of anybody's gymnasium environment, and how code of others is let run."""

import difflib
import logging
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float32, UInt8

from irevla.config import EnvConfig
from irevla.envs import gl
from irevla.envs.gym.settings import INFO, RENDER, REWARD, GymSettings
from irevla.envs.pixel_env import PixelEnv
from irevla.envs.suite import ActionRange
from irevla.errors import UserError
from irevla.images import square
from irevla.tasks import Task

MISSPELT = 0.9  # how alike two names are of which one is the other with a slip

_log = logging.getLogger(__name__)

Expert = Callable[[gym.Env[Any, Any]], Any]
"""(environment) -> its next action, in the environment's own units."""


@contextmanager
def theirs(doing: str, remedy: str) -> Iterator[None]:
    """Let code of others run: whatever it raises, and be it the end of the process, is one line,
    and what it prints is no output of ours."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())[:400]
        raise UserError(f"{doing}: {reason} ({type(error).__name__}); {remedy}") from error


def make_env(settings: GymSettings, task: str) -> gym.Env[Any, Any]:
    """Return what gymnasium makes for a task, without its own limit of steps.

    Raises `UserError` where it cannot.
    """
    keywords = settings.keywords(task)
    gl.choose_without_display()
    remedy = (
        "install its package, put its folder on PYTHONPATH, or correct id and make (package:ID, "
        "where importing the package registers it)"
    )
    with theirs(f"gymnasium cannot make {settings.id} with {keywords}", remedy):
        made: gym.Env[Any, Any] = gym.make(
            settings.id, max_episode_steps=-1, disable_env_checker=True, **keywords
        )
    return made


class GymEnv(PixelEnv):
    """One task. The episode ends with success, or where the environment or the horizon ends it."""

    def __init__(
        self,
        task: Task,
        config: EnvConfig,
        settings: GymSettings,
        actions: ActionRange,
        control_hz: float,
        expert: Expert | None = None,
    ) -> None:
        super().__init__(
            task, config, action_dim=len(actions.low), control_hz=max(1, round(control_hz))
        )
        self._settings = settings
        self._actions = actions
        self._expert = expert
        self._inner = make_env(settings, task.name)
        self._seen: Any = None  # the last observation
        self._ended = (False, False)  # terminated and truncated, as the environment says
        self._info: Mapping[str, Any] = {}  # what it said with the last step
        self._told = False  # whether it has said in this episode if its task is solved

    def _set_scene(self) -> None:
        seed = int(self.np_random.integers(2**31))
        random.seed(seed)  # some environments draw from these, whatever reset is told
        np.random.seed(seed)
        self._told = False
        told = self._inner.reset(seed=seed)
        if not (isinstance(told, tuple) and len(told) == 2 and isinstance(told[1], Mapping)):
            raise self._unlike("reset", "(observation, info)", told)
        self._seen = told[0]

    def step(
        self, action: Float32[np.ndarray, " A"]
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Carry out one decision, clipped to [-1, 1]: see `PixelEnv.step`.

        An episode may also terminate without success. Raises `UserError` where the environment does
        not say whether its task is solved.
        """
        self._ended = (False, False)
        image, reward, success, truncated, info = super().step(action)
        failed, cut_off = self._ended
        terminated = success or failed
        # Some say it only once it is true; but not under another name that is nearly the same.
        if truncated and not self._told and self._settings.success != REWARD:
            key = self._settings.success.removeprefix(INFO)
            others = [str(each) for each in self._info if each != key]
            if difflib.get_close_matches(key, others, n=1, cutoff=MISSPELT):
                raise self._success_unsaid(self._info)
            _tell_unsaid(self._settings.id, key, ", ".join(sorted(others)) or "nothing")
        return image, reward, terminated, not terminated and (truncated or cut_off), info

    def _advance(self, action: Float32[np.ndarray, " A"]) -> bool:
        native = self._cast(self._actions.native(action))
        success = False
        for _ in range(self.config.action_repeat):
            told = self._inner.step(native)
            wanted = "(observation, reward, terminated, truncated, info)"
            if not (isinstance(told, tuple) and len(told) == 5 and isinstance(told[4], Mapping)):
                raise self._unlike("step", wanted, told)
            self._seen, reward, *ended, info = told
            self._info = info
            terminated, truncated = map(_flag, ended)
            if terminated is None or truncated is None:
                raise self._unlike("step", f"{wanted} with two that are true or false", ended)
            self._ended = (terminated, truncated)
            success = self._is_solved(reward, info)
            if success or any(self._ended):
                break
        return success

    def _cast(self, native: Float32[np.ndarray, " A"]) -> np.ndarray:
        """Return an action as the environment's space has it: whole numbers rounded, and rounding
        never beyond the bounds, be they the file's or the environment's own."""
        space = self._inner.action_space
        assert isinstance(space, gym.spaces.Box)
        exact = native.astype(np.float64)
        exact = exact.clip(self._settings.low or space.low, self._settings.high or space.high)
        return (np.rint(exact) if space.dtype.kind in "iu" else exact).astype(space.dtype)

    def _is_solved(self, reward: Any, info: Mapping[str, Any]) -> bool:
        if self._settings.success == REWARD:
            number = np.asarray(reward)
            if number.size != 1 or number.dtype.kind not in "biuf":
                raise self._unlike("step", "a reward that is a number", reward)
            return self._ended[0] and float(number.item()) > 0
        key = self._settings.success.removeprefix(INFO)
        told = info[key] if key in info else _under(info, key)
        if told is None and any(self._ended):
            raise self._success_unsaid(info)
        if told is None:
            return False
        self._told = True
        success = _flag(told)
        if success is None:
            raise self._unlike(f"info[{key!r}]", "true or false", told)
        return success

    def _success_unsaid(self, info: Mapping[str, Any]) -> UserError:
        key = self._settings.success.removeprefix(INFO)
        has = ", ".join(sorted(map(str, info))) or "nothing"
        return UserError(
            f"{self._settings.id} ends an episode without info[{key!r}] (it has {has}): say in "
            "the YAML file what success is"
        )

    def _unlike(self, what: str, wanted: str, found: Any) -> UserError:
        return UserError(
            f"{what} of {self._settings.id} is {' '.join(repr(found).split()):.80}, and must be "
            f"{wanted}, as gymnasium has it: mend the environment, or name another"
        )

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """Return what a policy with one camera sees, at another size."""
        return self._image(self._settings.image, size)

    def _view(self, camera: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
        return self._image(self._settings.cameras[camera], size)

    def _image(self, path: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
        image: Any = self._inner.render() if path == RENDER else self._entry(path)
        if not _is_image(image):
            found = f"{image.dtype}{list(image.shape)}" if hasattr(image, "shape") else repr(image)
            raise UserError(
                f"the image of {self._settings.id} ({path or 'the observation'}) is "
                f"{found:.60}, and must be uint8[height, width, 3]: name another in the YAML file"
            )
        return square(np.ascontiguousarray(image), size)

    def _robot_state(self) -> Float32[np.ndarray, " S"]:
        told = self._settings.state
        return np.asarray(self._entry(told) if told else (), np.float32)

    def _entry(self, path: str) -> Any:
        """Return what the observation has under a dotted path; all of it under ""."""
        found = _under(self._seen, path) if path else self._seen
        if found is None:
            raise self._unlike("an observation", f"one with {path}", self._seen)
        return found

    def expert_action(self) -> Float32[np.ndarray, " A"]:
        """Return what the scripted expert does now. Raises `UserError` where nobody named one."""
        if self._expert is None:
            raise UserError(
                f"{self._settings.id} has no scripted expert: name demonstrations as "
                "--expert.dataset"
            )
        native = np.asarray(self._expert(self._inner), np.float32)
        if native.shape != self.action_space.shape or not np.isfinite(native).all():
            raise UserError(
                f"the expert of {self._settings.id} says {native}, and must say "
                f"{len(self._actions.low)} finite numbers"
            )
        hair = 1e-4 * (self._actions.high - self._actions.low)
        if ((native < self._actions.low - hair) | (native > self._actions.high + hair)).any():
            _tell_clipped(self._settings.id)
        return self._actions.scaled(native)

    def close(self) -> None:
        """Close what gymnasium has made."""
        self._inner.close()


@cache
def _tell_clipped(name: str) -> None:
    """Say, once in a process, that an expert goes further than the environment can."""
    _log.warning("the expert of %s leaves the action space: its actions are clipped to it", name)


@cache
def _tell_unsaid(name: str, key: str, has: str) -> None:
    """Say, once in a process, that an episode ended without a word on success."""
    _log.warning(
        "%s has not said info[%r] in a whole episode (it has %s): where it never does, nothing is "
        "ever solved; say in the YAML file what success is",
        name,
        key,
        has,
    )


def _under(group: Any, path: str) -> Any:
    """Return what groups of groups have under a dotted path; None: there is nothing."""
    for key in path.split("."):
        if not isinstance(group, Mapping) or key not in group:
            return None
        group = group[key]
    return group


def _is_image(image: Any) -> bool:
    return (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
    )


def _flag(value: Any) -> bool | None:
    """Return what is true or false, or 1 or 0; None for anything else, as a score or a text."""
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "biuf" or number.item() not in (0, 1):
        return None
    return bool(number.item())
