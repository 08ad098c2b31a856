"""Any gymnasium environment as a suite: `--suite gym:FILE.yaml` (docs/your-data.md)."""

import difflib
import importlib
import logging
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import cache, partial
from numbers import Real
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float32, UInt8

from irevla.config import EnvConfig
from irevla.envs import gl
from irevla.envs.gym_settings import INFO, RENDER, REWARD, GymSettings, read_settings
from irevla.envs.pixel_env import PixelEnv
from irevla.envs.suite import ActionRange, Suite
from irevla.errors import UserError
from irevla.images import square
from irevla.tasks import Task

MISSPELT = 0.9  # how alike two names are of which one is the other with a slip
UNBOUNDED = 1e30  # a bound beyond it is none: some write the largest number that there is

_log = logging.getLogger(__name__)

Expert = Callable[[gym.Env[Any, Any]], Any]
"""(environment) -> its next action, in the environment's own units."""


def gym_suite(name: str) -> Suite:
    """Return the suite that the YAML file `name` describes. Raises `UserError` for what cannot be.

    An environment is made once, to see its spaces; nothing is played.
    """
    if not name.endswith((".yaml", ".yml")):
        raise UserError(
            f"gym:{name} names no YAML file: write what is the image, the instruction and success "
            f"(docs/your-data.md), with id: {name}, and say --suite gym:FILE.yaml"
        )
    settings = read_settings(Path(name))
    tasks = settings.task_list()
    actions, state, rate = _spaces(settings, tasks[0].name)
    expert = _expert(settings)
    control_hz = settings.fps or rate
    if control_hz <= 0:
        raise UserError(
            f"{settings.id} does not say how many steps a second has: set fps in {name}"
        )
    return Suite(
        name=settings.id,
        tasks=tasks,
        action_dim=len(actions.low),
        fps=max(1, round(control_hz / EnvConfig().action_repeat)),
        control_hz=control_hz,
        make=partial(_make, settings, actions, control_hz, expert),
        render_settings=partial(_render_settings, settings),
        check=cache(partial(_check_tasks, settings)),
        scripted_expert=expert is not None,
        action_range=actions,
        state=state,
        cameras=tuple(settings.cameras),
    )


@contextmanager
def _theirs(doing: str, remedy: str) -> Iterator[None]:
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


def _spaces(settings: GymSettings, task: str) -> tuple[ActionRange, tuple[str, ...], float]:
    """Return the actions of a task, what the robot says of itself, and its steps per second (0: not
    said).

    Raises `UserError` where it cannot be made, has no such image or state, or takes other actions
    than we give.
    """
    env = _make_env(settings, task)
    with _theirs(f"{settings.id} is no environment of gymnasium", "mend it"):
        for path in settings.images:
            if path != RENDER:
                _check_image_space(env.observation_space, path, settings)
        actions = _action_range(env.action_space, settings)
        state = _state_names(env.observation_space, settings)
        told = (env.metadata or {}).get("render_fps")
        env.close()
    rate = float(told) if isinstance(told, Real) and math.isfinite(told) else 0.0
    return actions, state, rate


def _check_tasks(settings: GymSettings) -> None:
    """Raise `UserError` unless every task can be made, and takes the same actions."""
    first, *others = settings.tasks
    actions, state, _ = _spaces(settings, first)
    for task in others:
        found, told, _ = _spaces(settings, task)
        if told != state:
            raise UserError(f"{settings.id}: {task} has another state than {first}; leave it out")
        if not (
            np.array_equal(found.low, actions.low) and np.array_equal(found.high, actions.high)
        ):
            raise UserError(
                f"{settings.id}: {task} takes other actions than {first}; say low and high in the "
                "YAML file, or leave it out"
            )


def _make_env(settings: GymSettings, task: str) -> gym.Env[Any, Any]:
    """Return what gymnasium makes for a task, without its own limit of steps.

    Raises `UserError` where it cannot.
    """
    keywords = settings.keywords(task)
    gl.choose_without_display()
    remedy = (
        "install its package, put its folder on PYTHONPATH, or correct id and make (package:ID, "
        "where importing the package registers it)"
    )
    with _theirs(f"gymnasium cannot make {settings.id} with {keywords}", remedy):
        made: gym.Env[Any, Any] = gym.make(
            settings.id, max_episode_steps=-1, disable_env_checker=True, **keywords
        )
    return made


def _expert(settings: GymSettings) -> Expert | None:
    """Return the scripted expert that the settings name. Raises `UserError` where there is none."""
    if not settings.expert:
        return None
    module, _, name = settings.expert.partition(":")
    remedy = "write module:function, with its folder on PYTHONPATH"
    with _theirs(f"the expert of {settings.id}, {settings.expert!r}, cannot be imported", remedy):
        found: Expert = getattr(importlib.import_module(module), name)
        if not callable(found):
            raise TypeError(f"{name} is {found!r:.60}, and no function")
    return found


def _make(
    settings: GymSettings,
    actions: ActionRange,
    control_hz: float,
    expert: Expert | None,
    task: str,
    config: EnvConfig,
) -> "GymEnv":
    (found,) = [each for each in settings.task_list() if each.name == task]
    return GymEnv(found, config, settings, actions, control_hz, expert)


def _render_settings(settings: GymSettings, config: EnvConfig) -> Mapping[str, Any]:
    return {
        "settings": settings.plain(),
        "image_size": config.image_size,
        "action_repeat": config.action_repeat,
    }


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
        self._inner = _make_env(settings, task.name)
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
        if info.get(key) is None and any(self._ended):
            raise self._success_unsaid(info)
        if info.get(key) is None:
            return False
        self._told = True
        success = _flag(info[key])
        if success is None:
            raise self._unlike(f"info[{key!r}]", "true or false", info[key])
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
        seen = self._seen
        for key in path.split(".") if path else ():
            if not isinstance(seen, Mapping) or key not in seen:
                raise self._unlike("an observation", f"one with {path}", seen)
            seen = seen[key]
        return seen

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
                f"{len(self._actions.low)} numbers"
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


def _state_names(space: gym.Space[Any], settings: GymSettings) -> tuple[str, ...]:
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


def _check_image_space(space: gym.Space[Any], path: str, settings: GymSettings) -> None:
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


def _action_range(space: gym.Space[Any], settings: GymSettings) -> ActionRange:
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
