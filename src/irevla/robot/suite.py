"""The suite `panda`: the paper's real arm. Nothing heavy is imported, and no arm is looked for,
before an environment is made."""

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from irevla.config import EnvConfig
from irevla.envs.arm_state import STATE
from irevla.envs.panda.suite import ACTIONS
from irevla.envs.panda.tasks import ACTION_DIM, REACH, TURN, WRIST_SHARE
from irevla.envs.suite import Authorization, RealArm, Suite
from irevla.errors import UserError
from irevla.robot.settings import (
    FILE,
    HZ,
    POLICY_CAMERAS,
    SIMULATED,
    read_settings,
    settings_path,
)
from irevla.tasks import Task

if TYPE_CHECKING:
    from irevla.types import Episode

NAME = "panda"
PATIENCE = 120.0  # s: the least `env.timeout`, as a person puts things back within it


def _make(task: str, config: EnvConfig) -> gym.Env[Any, Any]:
    """Return a new environment of `task`, on the one arm of this process.

    Raises `UserError` for whatever is missing.
    """
    if config.workers * config.envs_per_worker != 1:
        raise UserError("there is one arm: --env.workers 1 --env.envs-per-worker 1")
    if config.timeout < PATIENCE:
        raise UserError(
            f"a person puts things back before each episode: --env.timeout {PATIENCE:.0f}, or "
            "longer"
        )
    from irevla.robot.cell import cell_of
    from irevla.robot.env import PandaRealEnv

    return PandaRealEnv(task, config, cell=cell_of(settings_path()))


def _render_settings(config: EnvConfig) -> Mapping[str, Any]:
    """Return what a dataset can know of the image. Where the cameras stand, and the light, it
    cannot."""
    return {
        "camera": "real",
        "wrist_share": WRIST_SHARE,
        "image_size": config.image_size,
        "reach": REACH,
        "turn": TURN,
        "hz": HZ,
    }


def _check() -> None:
    """Raise `UserError` where the settings cannot be read, or what they need is not installed.

    Touches no arm.
    """

    settings = read_settings(settings_path())
    kinds = {camera.kind for camera in settings.cameras.values()}
    packages = {
        "franky": (settings.driver == "franka", "'irevla[franka]'"),
        "cv2": ("opencv" in kinds, "'irevla[franka]'"),
        "pyrealsense2": ("realsense" in kinds, "pyrealsense2"),
    }
    for package, (needed, remedy) in packages.items():
        if needed and importlib.util.find_spec(package) is None:
            raise UserError(f"these settings need the package {package!r}: pip install {remedy}")


def _authorize(who: Authorization | None) -> None:
    """Let `who` move the arm of this process; None: nobody."""
    from irevla.robot import cell

    cell.authorize(who)


def _dry_run() -> bool:
    """Return the `dry_run` of the settings."""
    return read_settings(settings_path()).dry_run


def _only_policy() -> str:
    """Return the `policy` of the settings."""

    return read_settings(settings_path()).policy


def _partner(task: str) -> str:
    """Return the task that puts things back after `task`, and the other way round."""
    return read_settings(settings_path()).partners.get(task, "")


def _tasks() -> tuple[Task, ...]:
    """Return the tasks of the settings; where none are named yet, those of the simulated arm."""
    return read_settings(settings_path()).tasks if FILE in os.environ else SIMULATED


def _cameras() -> tuple[str, ...]:
    """Return the cameras of the settings."""
    return tuple(read_settings(settings_path()).cameras)


def _env_config(config: EnvConfig) -> EnvConfig:
    """Return `config` for one arm, with time for a person."""
    timeout = max(config.timeout, 5 * PATIENCE)
    return replace(config, workers=1, envs_per_worker=1, timeout=timeout)


def _demonstrations(
    path: Path, tasks: Sequence[str], config: EnvConfig, most: int
) -> "Iterator[Episode]":
    """Yield what people have demonstrated at the arm, as it was recorded in `path`."""
    from irevla.robot.recorder import Recording, recordings
    from irevla.types import Episode, Provenance

    found: dict[str, list[Recording]] = {task: [] for task in tasks}
    for recording in recordings(path, tasks, config):
        found[recording.task].append(recording)
    lacking = [task for task in tasks if not found[task]]
    if lacking:
        raise UserError(
            f"{path} shows no {', no '.join(lacking)}: choose --tasks among what people have shown"
        )
    instructions = {task.name: task.instruction for task in _tasks()}
    for task in tasks:
        for number, shown in enumerate(found[task][:most]):
            rewards = np.zeros(len(shown.actions), np.float32)
            rewards[-1] = 1.0
            instruction = instructions[task]
            made = Provenance(NAME, task, number, "expert")
            yield Episode(
                shown.images, shown.actions, rewards, instruction, True, made, shown.state
            )


PANDA = Suite(
    name=NAME,
    tasks=SIMULATED,
    action_dim=ACTION_DIM,
    state=STATE,
    cameras=POLICY_CAMERAS,
    fps=HZ,
    make=_make,
    render_settings=_render_settings,
    action_range=ACTIONS,
    check=_check,
    demonstrations=_demonstrations,
    real_arm=RealArm(
        authorize=_authorize,
        dry_run=_dry_run,
        only_policy=_only_policy,
        env_config=_env_config,
        partner=_partner,
        cameras=_cameras,
        tasks=_tasks,
    ),
)
