"""Success rates on fixed seeds that training never uses, without exploration noise."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from irevla.config import EnvConfig, RolloutsConfig
from irevla.envs.suite import Suite
from irevla.envs.vector import Job, VectorEnv
from irevla.errors import UserError
from irevla.evaluation.stats import Row
from irevla.progress import bar
from irevla.rollout.actors import BlindReplay, MeanActor
from irevla.rollout.episodes import EpisodeRecorder, Outcome
from irevla.rollout.played import Episodes, LocalEpisodes, open_episodes
from irevla.tasks import BASELINE, Purpose, first_seed, plain
from irevla.types import Policy

WORDS = ("right", "empty", "another", "punctuated")
"""What a policy may be told: the task's instruction; nothing; that of the next task; the task's in
capitals with an exclamation mark."""


@dataclass(frozen=True)
class Protocol:
    """What is played: `episodes` of each task on the evaluation seeds of block `seed`."""

    suite: Suite
    tasks: tuple[str, ...]
    env: EnvConfig
    episodes: int
    seed: int  # 0..999
    words: str = "right"  # one of `WORDS`; what counts as a success stays the task's own
    rollouts: RolloutsConfig = field(default_factory=RolloutsConfig)  # who plays a policy's

    def together(self) -> EnvConfig:
        """Return how environments are shared out: many at once, but for an arm, of which there is
        one and whose time to answer is a person's."""
        return self.env if self.suite.real_arm is not None else self.env.for_evaluation()

    def jobs(self, *, draw: bool = True) -> list[Job]:
        """Return all episodes."""
        first = first_seed(Purpose.EVALUATION, self.seed)
        return [
            Job(task, first + index, draw=draw, instruction=self._told(task))
            for task in self.tasks
            for index in range(self.episodes)
        ]

    def _told(self, task: str) -> str:
        own = self.suite.task(task).instruction
        others = [self.suite.task(other).instruction for other in self.tasks]
        turn = self.tasks.index(task)
        following = [words for words in others[turn:] + others[:turn] if plain(words) != plain(own)]
        if self.words == "another" and not following:
            raise UserError(f"there is no other instruction than {own!r} here: name more tasks")
        # One space, for a job without words has its task's.
        told = {"empty": " ", "another": following[0] if following else ""}
        return {**told, "punctuated": f"{own.upper()}!"}.get(self.words, "")


@dataclass(frozen=True)
class Played:
    """An episode that was played."""

    task: str
    seed: int
    success: bool
    length: int  # decisions


def _nothing(played: Played) -> None:
    """Nobody keeps it."""


@dataclass(frozen=True)
class Evaluation:
    """What came of it: a row for each task, and what was done in the first episode of each."""

    rows: list[Row]
    first_actions: dict[str, np.ndarray]  # task -> float32[T, A]
    lost: Mapping[str, Any] = field(default_factory=dict)  # a "note" where episodes are missing


Play = Callable[[Sequence[Job]], AbstractContextManager[Episodes]]


def evaluate_policy(
    policy: Policy,
    protocol: Protocol,
    *,
    method: str,
    stage: str,
    run_seed: int = 0,
    known: Sequence[Played] = (),
    keep: Callable[[Played], None] = _nothing,
) -> Evaluation:
    """Evaluate a policy without exploration noise.

    Episodes that are `known` are not played again; `keep` is told of each that was played.
    """
    policy.train(False)

    def play(jobs: Sequence[Job]) -> AbstractContextManager[Episodes]:
        env = protocol.together()
        return open_episodes(
            protocol.rollouts,
            MeanActor(policy),
            policy,
            protocol.suite,
            env,
            jobs,
            by_task=protocol.suite.real_arm is None,
        )

    return _evaluate(
        play,
        protocol,
        chunk=policy.chunk,
        execute=policy.execute,
        method=method,
        stage=stage,
        run_seed=run_seed,
        known=known,
        keep=keep,
    )


def evaluate_blind_replay(
    demonstrations: Mapping[str, Sequence[np.ndarray]], protocol: Protocol, *, run_seed: int = 0
) -> Evaluation:
    """Evaluate the baseline that sees nothing: demonstrations of each task, replayed in turn."""

    @contextmanager
    def play(jobs: Sequence[Job]) -> Iterator[Episodes]:
        by_task = protocol.suite.real_arm is None
        with VectorEnv(protocol.suite, protocol.together(), iter(jobs), by_task=by_task) as vec:
            yield LocalEpisodes(vec, BlindReplay(demonstrations), EpisodeRecorder(vec))

    return _evaluate(
        play,
        protocol,
        method="blind-replay",
        stage=BASELINE.name,
        run_seed=run_seed,
        draw=False,
    )


def _evaluate(
    play: Play,
    protocol: Protocol,
    *,
    method: str,
    stage: str,
    run_seed: int,
    chunk: int = 1,
    execute: int = 1,
    draw: bool = True,
    known: Sequence[Played] = (),
    keep: Callable[[Played], None] = _nothing,
) -> Evaluation:
    done = {(played.task, played.seed) for played in known}
    jobs = [job for job in protocol.jobs(draw=draw) if (job.task, job.seed) not in done]
    all_played = list(known)
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    start = time.monotonic()
    with (
        bar(f"Evaluation of {method}, {stage}", len(jobs)) as advance,
        play(jobs) as episodes,
    ):
        for number, outcome in enumerate(episodes, start=1):
            job = outcome.job
            played = Played(job.task, job.seed, outcome.success, outcome.length)
            keep(played)
            all_played.append(played)
            outcomes[job.task].append(outcome)
            solved = sum(played.success for played in all_played)
            advance(number, f"{solved} of {len(all_played)} solved")
    seconds = (time.monotonic() - start) / len(protocol.tasks)
    for task in protocol.tasks:
        if not any(played.task == task for played in all_played):
            raise UserError(f"no episode of {task} could be played: mend its environment")
    rows = rows_of(
        all_played,
        protocol,
        method=method,
        stage=stage,
        run_seed=run_seed,
        seconds=seconds,
        chunk=chunk,
        execute=execute,
    )
    firsts = {
        task: min(outcomes[task], key=lambda outcome: outcome.job.seed).actions for task in outcomes
    }
    return Evaluation(rows, firsts, episodes.facts)


def rows_of(
    played: Sequence[Played],
    protocol: Protocol,
    *,
    method: str,
    stage: str,
    run_seed: int = 0,
    seconds: float = 0.0,
    chunk: int = 1,
    execute: int = 1,
) -> list[Row]:
    """Return a row for each task that was played, `seconds` for each, by a policy that gives a
    `chunk` of actions, of which it `execute`s so many."""
    rows = []
    for task in protocol.tasks:
        mine = [each for each in played if each.task == task]
        if mine:
            row = Row.of(
                method=method,
                task=task,
                category=protocol.suite.task(task).category,
                stage=stage,
                seed=run_seed,
                successes=sum(each.success for each in mine),
                episodes=len(mine),
                env_steps=sum(each.length for each in mine),
                seconds=round(seconds, 1),
                chunk=chunk,
                execute=execute,
            )
            rows.append(row)
    return rows
