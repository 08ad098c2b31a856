"""Success rates on fixed seeds that training never uses: no exploration noise, counts, Wilson
intervals."""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from irevla.config import EnvConfig
from irevla.envs.base import find_task, load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.evaluation.stats import Row
from irevla.rollout import BlindReplay, Policy, play
from irevla.runs.progress import bar
from irevla.seeds import Purpose, first_seed


def evaluate(
    policy: Policy | None,
    suite: str,
    tasks: Sequence[str],
    *,
    env: EnvConfig,
    episodes: int,
    seed: int,
    method: str,
    stage: str,
    run_seed: int = 0,
) -> list[Row]:
    """`episodes` of each task on evaluation seeds `seed`; without a policy the scripted expert
    acts. One row per task."""
    first = first_seed(Purpose.EVALUATION, seed)
    draw = policy is not None and not isinstance(policy, BlindReplay)
    jobs = (Job(task, first + index, draw=draw) for task in tasks for index in range(episodes))
    successes = dict.fromkeys(tasks, 0)
    steps = dict.fromkeys(tasks, 0)
    start, total = time.monotonic(), len(tasks) * episodes
    with (
        bar(f"Evaluation of {method}, {stage}", total) as advance,
        VectorEnv(suite, env, jobs) as vec,
    ):
        for played, outcome in enumerate(play(vec, policy), start=1):
            successes[outcome.job.task] += outcome.success
            steps[outcome.job.task] += outcome.length
            advance(played, f"{sum(successes.values())} of {played} solved")
    seconds = (time.monotonic() - start) / len(tasks)
    catalogue = load_suite(suite)
    return [
        Row.of(
            method=method, task=task, category=find_task(catalogue, task).category, stage=stage, seed=run_seed,
            successes=successes[task], episodes=episodes, env_steps=steps[task], seconds=round(seconds, 1),
        )
        for task in tasks
    ]  # fmt: skip


def blind_replay(
    demonstrations: Mapping[str, Sequence[np.ndarray]],
    suite: str,
    *,
    env: EnvConfig,
    episodes: int,
    seed: int,
    run_seed: int = 0,
) -> list[Row]:
    """The baseline that sees nothing: demonstrations of each task, replayed in turn on the
    evaluation seeds."""
    blind = BlindReplay(demonstrations)
    return evaluate(
        blind, suite, tuple(demonstrations), env=env, episodes=episodes, seed=seed,
        method="blind-replay", stage="baseline", run_seed=run_seed,
    )  # fmt: skip
