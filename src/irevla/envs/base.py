"""What a suite of tasks is. A new domain is one file that implements `Suite`, and one line in
`SUITES`."""

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np

from irevla.category import Category
from irevla.config import EnvConfig
from irevla.errors import UserError, unknown

if TYPE_CHECKING:
    from irevla.types import Episode  # which imports torch, and workers have none


@dataclass(frozen=True)
class Task:
    """One task of a suite, as data."""

    name: str
    category: Category
    instruction: str  # free-form language; variants of one skill share it
    note: str = ""  # what differs from the expert task, for people


@runtime_checkable
class TaskEnv(Protocol):
    """What a suite's gymnasium environments offer beyond `gymnasium.Env`, on `env.unwrapped`.

    Observations are `uint8[H, W, 3]` pictures; actions `float32[A]` in [-1, 1] (clipped); the
    reward is 1 at success, where the episode terminates, else 0; `info["success"]` is a bool, and
    `info["action"]`, where it is there, what was done in the place of the action; an episode that
    lasts `horizon` decisions is truncated.
    """

    task: Task
    draw: bool  # False: pictures are blank and cost nothing (a blind policy needs none)

    def expert_action(self) -> np.ndarray:
        """The scripted expert's clean action for the present state: float32[A] in [-1, 1]."""
        ...

    def picture(self, size: int) -> np.ndarray:
        """The present scene as uint8[size, size, 3], for videos."""
        ...


@runtime_checkable
class Suite(Protocol):
    """A domain: its tasks, and how to make their environments."""

    name: str
    tasks: tuple[Task, ...]
    action_dim: int
    # decisions per second of simulated time, rounded: the frame rate of datasets and videos
    fps: int

    def make(self, task: str, config: EnvConfig) -> gym.Env[Any, Any]:
        """A new environment; its `unwrapped` is a `TaskEnv`. Environments of one process share one
        GL context."""
        ...

    def render_settings(self, config: EnvConfig) -> Mapping[str, Any]:
        """JSON-able settings that change the picture or the dynamics. Datasets record them; others
        are refused."""
        ...

    def check(self) -> None:
        """Raise `UserError` with the remedy where the simulator or a library it needs is
        missing."""
        ...


@runtime_checkable
class ShownByPeople(Protocol):
    """What a suite also offers whose tasks people have demonstrated."""

    def demonstrations(
        self, path: Path, tasks: Sequence[str], config: EnvConfig, *, most: int
    ) -> "Iterator[Episode]":
        """At most so many demonstrations of each task from the recordings in `path`;
        `provenance.seed` numbers them.

        Raises `UserError` where there are none of a task, before it yields anything.
        """
        ...


@runtime_checkable
class Supervised(Protocol):
    """What a suite also offers that acts in the real world: only for policies that are known, under
    settings of its own."""

    def pinned(self) -> str:
        """sha256, or its beginning, of the only policy that may ever act; empty: any."""
        ...

    def admit(self, policy_hash: str, config: EnvConfig, *, learning: bool) -> EnvConfig:
        """Let the policy with this sha256 act in environments made from now on, by this process or
        its workers, and with `learning` what it becomes while they are open; the settings for
        them."""
        ...


@runtime_checkable
class Hashed(Protocol):
    """A policy that can be told from others."""

    def hash(self) -> str:
        """sha256 of its weights."""
        ...


SUITES = {
    "kitchen": "irevla.envs.kitchen.suite:KITCHEN",
    "metaworld": "irevla.envs.metaworld:METAWORLD",
    "panda": "irevla.envs.real.suite:PANDA",
    "panda-sim": "irevla.envs.panda.suite:PANDA_SIM",
    "pointmass": "irevla.envs.pointmass:POINTMASS",
}


def load_suite(name: str) -> Suite:
    """The suite called `name`: one of `SUITES`, or `module:attribute` of your own. Raises
    `UserError` for any other."""
    path = SUITES.get(name, name)
    module, _, attribute = path.partition(":")
    if not attribute:
        raise unknown("suite", name, SUITES)
    try:
        suite: Suite = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise UserError(
            f"suite {name!r} needs the package {error.name!r}: pip install 'irevla[{name.partition(':')[0]}]'"
        ) from error
    return suite


def admitted(suite: str, policy: Hashed, config: EnvConfig, *, learning: bool = False) -> EnvConfig:
    """The settings of environments in which this policy may act, and with `learning` what it
    becomes in them."""
    found = load_suite(suite)
    return (
        found.admit(policy.hash(), config, learning=learning)
        if isinstance(found, Supervised)
        else config
    )


def check_packages(what: str, *packages: str, extra: str) -> None:
    """Raise `UserError` with the remedy where `what` lacks one of the packages that it needs."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{what} needs the package {package!r}: pip install 'irevla[{extra}]'")


def find_task(suite: Suite, name: str) -> Task:
    """The task called `name`, or a `UserError` with the nearest name."""
    for task in suite.tasks:
        if task.name == name:
            return task
    raise unknown(f"task of {suite.name}", name, [task.name for task in suite.tasks])


def named_tasks(suite: Suite, names: tuple[str, ...], category: Category) -> tuple[str, ...]:
    """The tasks called `names`, or all of `category` where none is named."""
    every = tuple(task.name for task in suite.tasks if task.category is category)
    return tuple(find_task(suite, name).name for name in names) or every
