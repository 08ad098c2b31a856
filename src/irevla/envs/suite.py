"""What a suite of tasks is. A new domain is one `Suite`, and one line in `SUITES`."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from jaxtyping import Float32

from irevla.config import Config, EnvConfig
from irevla.errors import UserError, unknown
from irevla.tasks import Category, Task, TaskLists, series

if TYPE_CHECKING:
    from irevla.types import Episode  # which imports torch, and workers have none


@runtime_checkable
class TaskEnv(Protocol):
    """What a suite's gymnasium environments offer beyond `gymnasium.Env`, on `env.unwrapped`.

    Observations are images `uint8[H, W, 3]`; actions `float32[A]` in [-1, 1] (clipped); the reward
    is 1 at success, where the episode terminates, else 0; `info["success"]` is a bool, and
    `info["action"]`, where it is there, what was done in the place of the action; `info["state"]`,
    where the suite has one, is the robot's state with the image; an episode that lasts `horizon`
    decisions is truncated.
    """

    task: Task
    draw: bool  # False: images are blank and cost nothing (a blind policy needs none)

    def expert_action(self) -> np.ndarray:
        """Return the scripted expert's clean action for the present state: float32[A] in [-1,
        1]."""
        ...

    def picture(self, size: int) -> np.ndarray:
        """Return the present scene as uint8[size, size, 3], for videos."""
        ...


PERSON = "person"
"""Who acts on a real arm where no policy does: in the place of a sha256."""


@dataclass(frozen=True)
class Authorization:
    """Who may act. A worker has it in its greeting; nobody else does."""

    policy: str  # sha256 of the policy, or `PERSON`
    learning: bool = False  # and what the policy becomes while it acts


@dataclass(frozen=True)
class RealArm:
    """What a suite also has that moves a real arm: it acts only for whom it was told of."""

    authorize: Callable[[Authorization | None], None]  # for the environments of this process
    dry_run: Callable[[], bool]  # whether it computes and sends nothing
    only_policy: Callable[[], str]  # sha256, or its beginning, of the one that may act; "": any
    env_config: Callable[[EnvConfig], EnvConfig]  # one worker, one environment, time for a person
    cameras: Callable[[], tuple[str, ...]] = lambda: ()  # that its cell has, beside `Suite.cameras`
    tasks: Callable[[], tuple[Task, ...]] = lambda: ()
    """Those that its settings name in the place of `Suite.tasks`; none: these."""
    partner: Callable[[str], str] = lambda task: ""
    """(task) -> the task that begins where it succeeds, and succeeds where it begins; "": none."""


Demonstrations = Callable[[Path, Sequence[str], EnvConfig, int], "Iterator[Episode]"]
"""(path, tasks, config, most) -> at most `most` demonstrations of each task that people recorded in
`path`; `provenance.seed` numbers them. Raises `UserError` where a task has none, before it
yields."""


@dataclass(frozen=True)
class ActionRange:
    """The actions that datasets of others have for a suite, in their own units."""

    low: Float32[np.ndarray, " A"]  # -1 for a policy
    high: Float32[np.ndarray, " A"]  # 1 for a policy
    displacements: int = 0  # so many of the first dimensions add up from frame to frame

    def native(self, action: Float32[np.ndarray, " A"]) -> Float32[np.ndarray, " A"]:
        """Return an action in [-1, 1] in the environment's units."""
        native = self.low + (action + 1) / 2 * (self.high - self.low)
        return np.asarray(np.clip(native, self.low, self.high), np.float32)  # rounding leads out

    def scaled(self, native: Float32[np.ndarray, " A"]) -> Float32[np.ndarray, " A"]:
        """Return an action in the environment's units as one in [-1, 1]."""
        action = 2 * (native - self.low) / (self.high - self.low) - 1
        return np.asarray(np.clip(action, -1, 1), np.float32)


def _nothing() -> None:
    """Nothing can be missing."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A domain: its tasks, and how to make their environments."""

    name: str
    tasks: tuple[Task, ...]
    action_dim: int  # A
    fps: int  # decisions per second of simulated time, rounded: the rate of datasets and videos
    make: Callable[[str, EnvConfig], gym.Env[Any, Any]]
    """A new environment of the task of that name; its `unwrapped` is a `TaskEnv`. Environments of
    one process share one GL context."""
    render_settings: Callable[[EnvConfig], Mapping[str, Any]]
    """What changes the image or the dynamics (JSON). Datasets record it and refuse to be mixed."""
    check: Callable[[], None] = _nothing
    """Raises `UserError` with the remedy where the simulator or a library it needs is missing."""
    state: tuple[str, ...] = ()
    """What its environments say of the robot in `info["state"]`, one name a number ("hand x, m"):
    the policy is told where `env.state` asks for it."""
    cameras: tuple[str, ...] = ()
    """Names of the views that its environments draw for themselves, where `env.cameras` asks."""
    control_hz: float = 0.0  # control steps per second, where `fps` is rounded; 0: as that says
    scripted_expert: bool = True  # whether its environments demonstrate the tasks
    demonstrations: Demonstrations | None = None  # where people have demonstrated the tasks
    action_range: ActionRange | None = None  # what it calls -1 and 1 in datasets; None: these
    real_arm: RealArm | None = None  # where it moves one; then there is no scripted expert
    source: str = ""  # the name that `load_suite` knew it by: what a worker is told

    def task(self, name: str) -> Task:
        """Return the task called `name`, or raise a `UserError` with the nearest name."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise unknown(f"task of {self.name}", name, [task.name for task in self.tasks])

    def named(self, names: Sequence[str], category: Category) -> tuple[str, ...]:
        """Return `names`, each known here; or all tasks of `category` where none is named."""
        every = tuple(task.name for task in self.tasks if task.category is category)
        return tuple(self.task(name).name for name in names) or every

    def several(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the tasks that `names` name: each one task, or a series, as "spatial" names
        "spatial-0", "spatial-1" and so on, or a category of the suite."""
        found = [task for name in names for task in self._named_by(name)]
        return tuple(dict.fromkeys(found))

    def _named_by(self, name: str) -> list[str]:
        known = [task.name for task in self.tasks]
        if name not in known:
            numbered = [task for task in known if series(task) == name]
            same = [task.name for task in self.tasks if task.category == name]
            if numbered or same:
                return numbered or same
        return [self.task(name).name]

    def task_lists(self, config: Config) -> TaskLists:
        """Return the tasks of a run. Raises `UserError` for an unknown one and for a leak."""
        lists = TaskLists(
            self.named(config.expert_tasks, Category.EXPERT),
            self.named(config.rl_tasks, Category.RL),
            self.named(config.unseen_tasks, Category.UNSEEN),
        )
        leaked = sorted(set(lists.unseen) & set(lists.expert + lists.rl))
        if leaked:
            raise UserError(
                f"{', '.join(leaked)} is to be unseen and trained on; take it out of one of the "
                "lists"
            )
        return lists

    def state_dim(self, config: EnvConfig) -> int:
        """Return how many numbers of the robot's state the policy is told, S."""
        return len(self.state) if config.state else 0

    def check_senses(self, config: EnvConfig) -> None:
        """Raise `UserError` where the policy is to see or to be told what there is not."""
        if config.state and not self.state:
            raise UserError(f"{self.name} says nothing of its robot's state: --env.no-state")
        if config.cameras and not self.cameras:
            raise UserError(f"{self.name} has one camera without a name: no --env.cameras")
        others = set(config.cameras) - set(self.cameras)
        here = self.real_arm.cameras() if others and self.real_arm is not None else ()
        for camera in sorted(others - set(here)):
            known = dict.fromkeys((*self.cameras, *here))
            raise unknown(f"camera of {self.name}", camera, tuple(known))
        if len(set(config.cameras)) < len(config.cameras):
            raise UserError("env.cameras must name each camera once")

    def authorize(self, who: Authorization | None) -> None:
        """Let `who` act in the environments of this process from now on; None: nobody any more.

        A simulator lets everybody.
        """
        if self.real_arm is not None:
            self.real_arm.authorize(who)

    def rate(self, config: EnvConfig) -> float:
        """Return the decisions per second of simulated time, at the action repeat of `config`."""
        steps = self.control_hz or self.fps * EnvConfig().action_repeat
        return steps / config.action_repeat

    def env_config(self, config: EnvConfig) -> EnvConfig:
        """Return `config` as this suite can have it: a real arm has one worker."""
        return config if self.real_arm is None else self.real_arm.env_config(config)


SUITES = {
    "kitchen": "irevla.envs.kitchen.suite:KITCHEN",
    "libero": "irevla.envs.libero.suite:LIBERO",
    "metaworld": "irevla.envs.metaworld.suite:METAWORLD",
    "panda": "irevla.robot.suite:PANDA",
    "panda-sim": "irevla.envs.panda.suite:PANDA_SIM",
    "pointmass": "irevla.envs.pointmass:POINTMASS",
}


GYM = "gym"
"""How the name of a suite begins that a YAML file describes: "gym:push.yaml"."""


def load_suite(name: str) -> Suite:
    """Return the suite called `name`: one of `SUITES`, `gym:FILE`, or `module:attribute` of your
    own.

    Raises `UserError` for any other, where a package that it imports is missing, and where the
    settings of a real arm are wrong.
    """
    path = SUITES.get(name, name)
    module, _, attribute = path.partition(":")
    if not attribute:
        raise unknown("suite", name, SUITES)
    if module == GYM:
        described: Suite = importlib.import_module("irevla.envs.gym.suite").gym_suite(attribute)
        return replace(described, source=name)
    try:
        suite = getattr(importlib.import_module(module), attribute, None)
    except (ValueError, TypeError) as error:  # "" or a relative name
        raise UserError(f"suite {name!r} is no module:attribute that can be imported") from error
    except ModuleNotFoundError as error:
        remedy = "install it, or put its folder on PYTHONPATH"
        if name in SUITES:
            remedy = f"pip install 'irevla[{name}]'"
        raise UserError(f"suite {name!r} needs the package {error.name!r}: {remedy}") from error
    if not isinstance(suite, Suite):
        raise UserError(f"suite {name!r}: {attribute} in {module} is no irevla.envs.suite.Suite")
    own = suite.real_arm.tasks() if suite.real_arm is not None else ()
    return replace(suite, source=name, tasks=own or suite.tasks)


def suite_of_file(name: str, path: Path) -> Suite:
    """Return the suite that a file names, which may be somebody else's.

    No code that a file names is run, and no arm is moved because a file says so: raises `UserError`
    for all but our own simulated suites.
    """
    if name not in SUITES:
        raise UserError(
            f"{path} asks for the suite {name!r}, which is code from elsewhere: if you trust it, "
            f"say --suite {name}"
        )
    suite = load_suite(name)
    if suite.real_arm is not None:
        raise UserError(f"{path} asks for {name}, which moves a real arm: say --suite {name}")
    return suite


def check_packages(what: str, *packages: str, extra: str) -> None:
    """Raise `UserError` with the remedy where `what` lacks one of the packages that it needs."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{what} needs the package {package!r}: pip install 'irevla[{extra}]'")


def register(suite: Suite, entry_point: str) -> None:
    """Let `gymnasium.make("irevla/SUITE-TASK-v0")` make the tasks of `suite`."""
    for task in suite.tasks:
        name = f"irevla/{suite.name}-{task.name}-v0"
        gym.register(name, entry_point=entry_point, kwargs={"task": task.name})
