"""A suite whose environments do exactly what a test needs: end when told, hang, raise or die.

Workers import it as `scripted_suite:SCRIPTED`.
"""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from irevla.config import EnvConfig
from irevla.envs.suite import Authorization, RealArm, Suite
from irevla.errors import UserError
from irevla.tasks import Category, Task

FLAG = "IREVLA_TEST_FLAG"  # names a file: present once an environment has misbehaved
NAMES = (
    "win",
    "timeout",
    "mixed",
    "hang",
    "hang-once",
    "raise",
    "user-error",
    "reset-dies",
    "taken-over",
)


class ScriptedEnv(gym.Env[Any, Any]):
    """Pixel (0, 0) is the seed (modulo 256), (0, 1) the decisions taken; (1, 0) the executed
    action, x 100 + 100."""

    def __init__(self, task: Task, config: EnvConfig) -> None:
        self.task = task
        self.draw = True
        self.config = config
        self.observation_space = gym.spaces.Box(
            0, 255, (config.image_size, config.image_size, 3), np.uint8
        )
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if self.task.name == "reset-dies":
            os._exit(7)
        assert seed is not None
        self.seed = seed
        self.steps = 0
        self.action = np.zeros(2)
        return self.picture(self.config.image_size), {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        self.action = action
        self.misbehave()
        wins = self.task.name in ("win", "taken-over") or (
            self.task.name == "mixed" and self.seed % 2 == 0
        )
        success = self.steps == 2 and wins
        truncated = not success and self.steps == self.config.horizon
        info: dict[str, Any] = {"success": success}
        if self.task.name == "taken-over":  # in its first decision alone
            info["person"] = self.steps == 1
            if info["person"]:
                info["action"] = np.array([-0.5, 0.5], np.float32)
        return self.picture(self.config.image_size), float(success), success, truncated, info

    def misbehave(self) -> None:
        if self.task.name == "user-error":
            raise UserError("the table is missing; bring one")
        if self.task.name == "raise":
            raise ArithmeticError("the arm went through\nthe table")
        flag = Path(os.environ.get(FLAG, "/"))
        if self.task.name == "hang" or (
            self.task.name == "hang-once" and self.seed == 1 and not flag.exists()
        ):
            flag.touch()
            time.sleep(1000)

    def expert_action(self) -> np.ndarray:
        return np.array([0.5, -0.25], np.float32)

    def picture(self, size: int) -> np.ndarray:
        image = np.zeros((size, size, 3), np.uint8)
        if self.draw:
            image[0, 0] = self.seed % 256
            image[0, 1] = self.steps
            image[1, 0, :2] = np.round(self.action * 100 + 100)
        return image


class ToldEnv(ScriptedEnv):
    """Pixel (0, 2) is what this process was told of who may act: 0 nobody, 1 a policy, 2 a policy
    that learns; pixel (0, 3) whether its environment variables name that policy."""

    def picture(self, size: int) -> np.ndarray:
        image = super().picture(size)
        who = TOLD[-1] if TOLD else None
        if self.draw and who is not None:
            image[0, 2] = 1 + who.learning
            image[0, 3] = any(who.policy in value for value in os.environ.values())
        return image


TOLD: list[Authorization | None] = []  # in this process


def _make(task: str, config: EnvConfig) -> ScriptedEnv:
    return ScriptedEnv(SCRIPTED.task(task), config)


def _make_told(task: str, config: EnvConfig) -> ScriptedEnv:
    return ToldEnv(SCRIPTED.task(task), config)


SCRIPTED = Suite(
    name="scripted",
    tasks=tuple(Task(name, Category.EXPERT, f"do {name}") for name in NAMES),
    action_dim=2,
    fps=10,
    make=_make,
    render_settings=lambda config: {},
)
REAL = replace(
    SCRIPTED,
    make=_make_told,
    real_arm=RealArm(
        authorize=TOLD.append,
        dry_run=lambda: False,
        only_policy=lambda: "",
        env_config=lambda config: replace(config, workers=1, envs_per_worker=1),
    ),
)
