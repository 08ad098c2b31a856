"""How a blind replay of somebody's demonstrations does in a suite: what success is worth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from irevla.config import EnvConfig
from irevla.data.dataset import Dataset, RecordedEpisode, same_rate
from irevla.data.episodes import LARGEST_ACTION
from irevla.data.store_spec import is_ours
from irevla.envs.suite import Suite
from irevla.errors import UserError
from irevla.evaluation.evaluate import Protocol, evaluate_blind_replay
from irevla.evaluation.stats import Interval
from irevla.rollout.demonstrations import REPLAYED
from irevla.tasks import plain


@dataclass(frozen=True)
class BlindRate:
    """What came of it in one task of the suite."""

    task: str
    instruction: str  # as the dataset has it
    successes: int
    episodes: int
    rate: float
    ci95: Interval
    fps: float  # decisions per second
    horizon: int  # decisions, at most


def fitting(dataset: Dataset, suite: Suite, env: EnvConfig) -> EnvConfig:
    """Return `env` with a decision for each frame, where the rates allow it, and with time for the
    longest episode."""
    once = replace(env, action_repeat=1)
    repeat = max(1, round(suite.rate(once) / dataset.info.fps))
    longest = max(each.length for each in dataset.episodes)
    return replace(env, action_repeat=repeat, horizon=max(env.horizon, longest))


def blind_rates(
    dataset: Dataset, suite: Suite, *, env: EnvConfig, episodes: int
) -> list[BlindRate]:
    """Replay demonstrations with closed eyes in every task whose instruction the dataset has.

    Up to five of each, in turn, on evaluation seeds; frames are taken at the suite's rate. Raises
    `UserError` where no task has the instruction, where actions or rate are not the suite's, and
    for a real arm.
    """
    if suite.real_arm is not None:
        raise UserError(f"{suite.name} moves a real arm, which nobody may with closed eyes")
    found = {plain(text): text for text in dataset.by_instruction}
    told = {
        task.name: found[plain(task.instruction)]
        for task in suite.tasks
        if plain(task.instruction) in found
    }
    if not told:
        raise UserError(
            f"no task of {suite.name} has an instruction of {dataset.root}: name another --suite"
        )
    stride = _stride(dataset, suite, suite.rate(env))
    shown = {
        task: [_actions(dataset, suite, each)[::stride] for each in _chosen(dataset, text)]
        for task, text in told.items()
    }
    suite.check()
    protocol = Protocol(suite, tuple(told), env, episodes, seed=0)
    rows = evaluate_blind_replay(shown, protocol).rows
    return [
        BlindRate(
            row.task,
            told[row.task],
            row.successes,
            row.episodes,
            row.rate,
            row.ci95,
            fps=suite.rate(env),
            horizon=env.horizon,
        )
        for row in rows
    ]


def _stride(dataset: Dataset, suite: Suite, rate: float) -> int:
    """Return of how many frames one is a decision. Raises `UserError` where it is no number."""
    fps = dataset.info.fps
    stride = max(1, round(fps / rate))
    if not same_rate(fps / stride, rate):
        raise UserError(
            f"dataset {dataset.root} has {fps} frames a second, and {suite.name} decides "
            f"{rate:.3g} times a second: another --env.action-repeat, or leave --suite out"
        )
    return stride


def _chosen(dataset: Dataset, instruction: str) -> Sequence[RecordedEpisode]:
    """Return the first episodes of a task that succeeded, or that nobody says failed."""
    every = dataset.by_instruction[instruction]
    return [each for each in every if each.success is not False][:REPLAYED] or every[:REPLAYED]


def _actions(
    dataset: Dataset, suite: Suite, episode: RecordedEpisode
) -> Float32[np.ndarray, "_ A"]:
    """Return an episode's actions in [-1, 1]. Raises `UserError` where they are not the suite's."""
    recorded = dataset.actions[episode.frames]
    if recorded.shape[1] != suite.action_dim:
        raise UserError(
            f"dataset {dataset.root} has actions of {recorded.shape[1]} dimensions, and "
            f"{suite.name} takes {suite.action_dim}: name another --suite"
        )
    if suite.action_range is not None and not is_ours(dataset.root):  # irevla's are scaled
        low, high = suite.action_range.low, suite.action_range.high
        with np.errstate(over="ignore"):  # what overflows is outside
            recorded = 2 * (recorded - low) / (high - low) - 1
    if not (np.abs(recorded) <= LARGEST_ACTION).all():  # NaN is not
        raise UserError(
            f"dataset {dataset.root}: actions of episode {episode.index} are outside of what "
            f"{suite.name} takes, or not finite, so that a replay would say nothing: leave --suite "
            "out, or name another one"
        )
    return np.asarray(np.clip(recorded, -1, 1), np.float32)
