"""The two suites with a Franka Panda in MuJoCo, played by their scripted experts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from irevla.config import EnvConfig
from irevla.envs.suite import load_suite
from irevla.envs.worker import Disturbance, Job

SUITES = ("kitchen", "panda-sim")
TASKS = [(name, task.name) for name in SUITES for task in load_suite(name).tasks]
CONFIG = EnvConfig(horizon=80)
PATIENT = EnvConfig(
    horizon=140
)  # for disturbed experts: as long as the preset's demonstrations may take
STILL = np.zeros(7, np.float32)


def blind(suite: str, task: str, config: EnvConfig = CONFIG) -> Any:
    """An environment that draws nothing."""
    env: Any = load_suite(suite).make(task, config)
    env.draw = False
    return env


def play(env: Any, seed: int, *, steps: int = 80, noise: float = 0.0) -> tuple[np.ndarray, bool]:
    """The states of an episode of the expert, disturbed in bursts, and whether it succeeded."""
    env.reset(seed=seed)
    disturbance = Disturbance(Job(env.task.name, seed, noise, burst=6))
    states = []
    success = False
    for _ in range(steps):
        states.append(np.concatenate([env.data.qpos, env.data.qvel, env.data.xpos.ravel()]))
        _, _, terminated, truncated, info = env.step(env.expert_action() + disturbance.sample(7))
        success = bool(info["success"])
        if terminated or truncated:
            break
    return np.array(states), success


def demonstration(env: Any, seed: int) -> list[np.ndarray]:
    """The actions of an episode of the expert that succeeds."""
    env.reset(seed=seed)
    actions, over = [], False
    while not over:
        actions.append(env.expert_action())
        _, _, over, truncated, _ = env.step(actions[-1])
        assert not truncated, "a demonstration that fails"
    return actions


def replay(env: Any, seed: int, actions: Sequence[np.ndarray]) -> bool:
    """Whether blind actions succeed; the last is held, as in the baseline of every run."""
    env.reset(seed=seed)
    return any(env.step(actions[min(t, len(actions) - 1)])[2] for t in range(env.config.horizon))
