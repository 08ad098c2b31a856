"""The suite `panda`: the paper's real arm. Nothing heavy is imported, and no arm is looked for,
before an environment is made."""

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from irevla.config import EnvConfig
from irevla.envs.base import Task
from irevla.envs.panda.suite import ACTION_DIM, REACH, TURN, WRIST_SHARE
from irevla.envs.panda.tasks import SPECS
from irevla.errors import UserError

if TYPE_CHECKING:
    import gymnasium as gym

    from irevla.types import Episode

# environment variable: who moves the arm, a policy's sha256 or "person" ...
POLICY = "IREVLA_POLICY_HASH"
LEARNING = "+learning"  # ... and what follows the sha256 of a policy that learns while it acts
HZ = 10  # decisions per second
PATIENCE = 120.0  # s: the least `env.timeout`, as a person puts things back within it


class PandaReal:
    """The suite `panda`. The tasks are those of `panda-sim`: lay out what their instructions
    name."""

    name = "panda"
    tasks: tuple[Task, ...] = tuple(spec.task for spec in SPECS.values())
    action_dim = ACTION_DIM
    fps = HZ

    def make(self, task: str, config: EnvConfig) -> "gym.Env[Any, Any]":
        """A new environment of `task`, on the one arm of this process. Raises `UserError` for
        whatever is missing."""
        if config.workers * config.envs_per_worker != 1:
            raise UserError("there is one arm: --env.workers 1 --env.envs-per-worker 1")
        if config.timeout < PATIENCE:
            raise UserError(
                f"a person puts things back before each episode: --env.timeout {PATIENCE:.0f}, or longer"
            )
        from irevla.envs.real.connect import cell_of
        from irevla.envs.real.env import PandaRealEnv
        from irevla.envs.real.settings import settings_path

        return PandaRealEnv(task, config, cell=cell_of(settings_path()))

    def render_settings(self, config: EnvConfig) -> Mapping[str, Any]:
        """What a dataset can know of the picture. Where the cameras stand, and the light, it
        cannot."""
        return {
            "camera": "real",
            "wrist_share": WRIST_SHARE,
            "image_size": config.image_size,
            "reach": REACH,
            "turn": TURN,
            "hz": HZ,
        }

    def check(self) -> None:
        """Raise `UserError` where the settings cannot be read, or what they need is not installed.
        Touches no arm."""
        from irevla.envs.real.settings import read_settings, settings_path

        settings = read_settings(settings_path())
        cameras = (settings.front, settings.wrist)
        needs = {
            "franky": settings.driver == "franka",
            "cv2": any(camera.kind == "opencv" for camera in cameras),
            "pyrealsense2": any(camera.kind == "realsense" for camera in cameras),
            "pyspacemouse": settings.person == "spacemouse",
        }
        for package, needed in needs.items():
            if needed and importlib.util.find_spec(package) is None:
                extra = (
                    package if package in ("pyrealsense2", "pyspacemouse") else "'irevla[franka]'"
                )
                raise UserError(f"these settings need the package {package!r}: pip install {extra}")

    def pinned(self) -> str:
        """The `policy` of the settings."""
        from irevla.envs.real.settings import read_settings, settings_path

        return read_settings(settings_path()).policy

    def admit(self, policy_hash: str, config: EnvConfig, *, learning: bool) -> EnvConfig:
        """Let this policy move the arm (the settings may still refuse it); one worker, one
        environment, and time for a person."""
        os.environ[POLICY] = policy_hash + (LEARNING if learning else "")
        return replace(
            config, workers=1, envs_per_worker=1, timeout=max(config.timeout, 5 * PATIENCE)
        )

    def demonstrations(
        self, path: Path, tasks: Sequence[str], config: EnvConfig, *, most: int
    ) -> "Iterator[Episode]":
        """What people have shown at the arm, as it was recorded in `path`."""
        from irevla.envs.real.recorder import recordings
        from irevla.types import Episode, Provenance

        found: dict[str, list[Any]] = {task: [] for task in tasks}
        for task, pictures, actions in recordings(path, tasks, size=config.image_size):
            found[task].append((pictures, actions))
        lacking = [task for task in tasks if not found[task]]
        if lacking:
            raise UserError(
                f"{path} shows no {', no '.join(lacking)}: choose --tasks among what people have shown"
            )
        instructions = {task.name: task.instruction for task in self.tasks}
        for task in tasks:
            for number, (pictures, actions) in enumerate(found[task][:most]):
                rewards = np.zeros(len(actions), np.float32)
                rewards[-1] = 1.0
                made = Provenance(self.name, task, number, "expert")
                yield Episode(
                    pictures, actions, rewards, instructions[task], success=True, provenance=made
                )


PANDA = PandaReal()
