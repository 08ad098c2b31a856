"""The same faults under what others use: gymnasium's vector environments, and torch.save."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGSTOP, Signals
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from injector.lives import Life
from injector.tally import Tally
from irevla.errors import UserError
from irevla.storage import checkpoint

PATIENCE = 25.0  # seconds after which it hangs, its start among them
STEPS = 50  # that must be possible after a hit
MEGABYTES = 50


def attack(count: int, *, seed: int, folder: Path, first: int = 0) -> Tally:
    """Hit each peer `count` times; nothing that they do is a fault of ours."""
    tally = Tally("peers", seed)
    for number in range(first, first + count):
        luck = tally.luck(number)
        for what in (SIGKILL, SIGSTOP):
            said = _hit_gymnasium(what, folder, number, wait=luck.random())
            tally.counts[f"AsyncVectorEnv {what.name} {said}"] += 1
        for name, write, read in (
            ("torch.save", _torch_saves, _torch_reads),
            ("irevla", _irevla_saves, _irevla_reads),
        ):
            whole = _killed_while_saving(luck, write, read, folder / f"peer-{name}-{number}")
            tally.counts[f"{name} {'whole' if whole else 'UNREADABLE'}"] += 1
    return tally


# --- Lost workers


class Still(gym.Env[Any, Any]):
    """An environment in which nothing happens."""

    observation_space = gym.spaces.Box(0, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Begin."""
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        """Go on."""
        return np.zeros(2, np.float32), 0.0, False, False, {}


def _hit_gymnasium(what: Signals, folder: Path, number: int, *, wait: float) -> str:
    answer = folder / "peer.answer"
    answer.unlink(missing_ok=True)
    life = Life(folder / "peer.log", _step_on, what, answer, wait)
    ended = life.ended(PATIENCE)
    if not ended:
        life.kill(session=True)
    told = answer.read_text() if answer.exists() else ""
    return told or ("fails" if ended else "hangs")


def _step_on(what: Signals, answer: Path, wait: float) -> None:
    env = gym.vector.AsyncVectorEnv([Still] * 2)
    env.reset()
    end = time.monotonic() + wait
    while time.monotonic() < end:
        env.step(env.action_space.sample())
    pid = env.processes[0].pid
    assert pid is not None
    os.kill(pid, what)
    for _ in range(STEPS):
        env.step(env.action_space.sample())
    answer.write_text("goes on")
    os._exit(0)


# --- Checkpoints


def _killed_while_saving(
    luck: Random, write: Callable[[Path], None], read: Callable[[Path], None], path: Path
) -> bool:
    """Save again and again, kill -9 at some moment; return whether the file can be read then."""
    life = Life(path.with_name("peer.log"), write, path)
    while not path.exists() and not life.ended(0.01):
        pass
    life.ended(1 + luck.random())
    life.kill(session=True)
    try:
        read(path)
    except (RuntimeError, OSError, EOFError, UserError):
        return False
    return True


def _tensors() -> dict[str, torch.Tensor]:
    return {"weights": torch.zeros(MEGABYTES, 1 << 18)}


def _torch_saves(path: Path) -> None:
    tensors = _tensors()
    while True:
        torch.save(tensors, path)


def _torch_reads(path: Path) -> None:
    torch.load(path, weights_only=True)


def _irevla_saves(path: Path) -> None:
    tensors = _tensors()
    while True:
        checkpoint.save(path, {"model.safetensors": tensors})


def _irevla_reads(path: Path) -> None:
    checkpoint.load(path, as_saved=True)
