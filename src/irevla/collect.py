"""Episodes worth imitating: the expert dataset D_e from scripted experts, and the harvest of D_RL
(Algorithm 1, line 6)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from irevla.config import Config, EnvConfig, ExpertConfig
from irevla.data.episodes import EpisodeStore, StoreSpec
from irevla.envs.base import ShownByPeople, Suite, admitted, load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.errors import UserError
from irevla.models.policy import VLAPolicy
from irevla.rollout import Actor, Outcome, play
from irevla.runs.progress import bar
from irevla.seeds import Purpose, first_seed
from irevla.turn import Turn
from irevla.types import Episode

ROUNDS = 20  # first attempts, then retries with new seeds for those that failed
REPLAYED = (
    5  # demonstrations of each task that the blind baseline replays in turn: one may be lucky
)
FLUSH = 50  # episodes written at once


def store_spec(suite: Suite, config: EnvConfig, *, online: bool = False) -> StoreSpec:
    """What a dataset of this suite, drawn with these settings, must be."""
    shape = (config.image_size, config.image_size, 3)
    settings = dict(suite.render_settings(config))
    return StoreSpec(
        suite.name, shape, suite.action_dim, suite.fps, settings, "online" if online else "expert"
    )


def open_store(
    suite: Suite, config: EnvConfig, root: Path, *, online: bool = False
) -> EpisodeStore:
    """The dataset at `root`, new where there is none. `UserError` where it was drawn with other
    settings."""
    return EpisodeStore(root, store_spec(suite, config, online=online))


def collect_expert(
    suite: str, tasks: Sequence[str], config: ExpertConfig, *, env: EnvConfig, seed: int, root: Path
) -> EpisodeStore:
    """Bring D_e at `root` to `config.episodes` successful demonstrations of each task.

    Every other one (by `config.noisy_fraction`) is executed with action noise and labelled with the
    clean action. Interrupted, it goes on where it was, and ends with the same episodes in the same
    order as if it had not been.
    """
    store = open_store(load_suite(suite), env, root)
    wanted = dict.fromkeys(tasks, config.episodes)
    patient = replace(env, horizon=config.horizon or env.horizon)
    with bar(f"Demonstrations of {len(tasks)} tasks", sum(wanted.values())) as advance:
        for attempt in range(ROUNDS):
            jobs = list(
                _missing(
                    store, wanted, attempt, config=config, first=first_seed(Purpose.EXPERT, seed)
                )
            )
            if jobs:
                with VectorEnv(suite, patient, iter(jobs)) as vec:
                    for episodes in _successes(play(vec, None, keep_images=True), jobs):
                        store.extend(episodes)
                        advance(len(store), "")
            advance(len(store), f"{len(store)} episodes")
    lacking = [
        f"{task} {store.counts().get(task, 0)}"
        for task in tasks
        if store.counts().get(task, 0) < wanted[task]
    ]
    if lacking:
        raise UserError(
            f"the scripted expert failed too often ({', '.join(lacking)} of {config.episodes} demonstrations): "
            "choose other tasks, a longer expert.horizon or less expert.noise"
        )
    return store


def import_shown(
    suite: Suite, tasks: Sequence[str], *, path: Path, most: int, env: EnvConfig, root: Path
) -> EpisodeStore:
    """Bring what people have demonstrated, in the recordings at `path`, into D_e at `root`; what is
    there is kept.

    Raises `UserError` where nobody showed this suite, or one of the tasks.
    """
    if not isinstance(suite, ShownByPeople):
        raise UserError(
            f"no recordings of people are known for {suite.name}: leave --demonstrations out"
        )
    if not path.exists():
        raise UserError(f"there are no demonstrations {path}: name a file or a folder")
    episodes = suite.demonstrations(path, tasks, env, most=most)
    store = open_store(suite, env, root)
    done = {(info.provenance.task, info.provenance.seed) for info in store.episodes}
    with bar(f"Demonstrations of {len(tasks)} tasks", len(tasks) * most) as advance:
        for episode in episodes:
            if (episode.provenance.task, episode.provenance.seed) not in done:
                store.append(episode)
            advance(len(store), f"{len(store)} episodes")
    return store


def _missing(
    store: EpisodeStore, wanted: dict[str, int], attempt: int, *, config: ExpertConfig, first: int
) -> Iterator[Job]:
    """What to try in this round: one seed for each demonstration in round 0, then a new seed for
    each that failed."""
    done = {(info.provenance.task, info.provenance.seed) for info in store.episodes}
    for task, number in wanted.items():
        for index in range(number):
            seeds = [first + index + late * number for late in range(ROUNDS)]
            if not any((task, seed) in done for seed in seeds):
                noisy = int((index + 1) * config.noisy_fraction) > int(
                    index * config.noisy_fraction
                )
                yield Job(
                    task, seeds[attempt], noise=config.noise if noisy else 0.0, burst=config.burst
                )


Played = TypeVar("Played", bound=Outcome)


def in_order(outcomes: Iterable[Played], jobs: Iterable[Job]) -> Iterator[Played]:
    """The same outcomes in the order of their jobs, so that a dataset does not depend on which
    worker was faster."""
    early: dict[Job, Played] = {}
    awaited = iter(jobs)
    job = next(awaited, None)
    for outcome in outcomes:
        early[outcome.job] = outcome
        while job in early:
            yield early.pop(job)
            job = next(awaited, None)


def _successes(outcomes: Iterable[Outcome], jobs: Iterable[Job]) -> Iterator[list[Episode]]:
    """Successful episodes in the order of their jobs, in batches of one file each."""
    batch: list[Episode] = []
    for outcome in in_order(outcomes, jobs):
        if outcome.success and outcome.episode is not None:
            batch.append(outcome.episode)
        if len(batch) >= FLUSH:
            yield batch
            batch = []
    if batch:
        yield batch


class Harvested(NamedTuple):
    """What a harvest took, and gave."""

    tried: int  # episodes, now
    decisions: int  # in these: robot time
    kept: int  # of this turn that the store has


def harvest(policy: VLAPolicy, turn: Turn, config: Config, *, store: EpisodeStore) -> Harvested:
    """D_RL <- D_RL + x_i: successful trajectories of the converged policy on its task; failures
    never.

    The policy's own actions are the labels; with `harvest.noise` what is executed is disturbed, so
    that D_RL shows how to come back, as the expert's demonstrations do (DART, Laskey et al. 2017).
    Ends with `harvest.episodes` successes of this turn in the store, or after `harvest.attempts`
    tries.
    """
    settings, task = config.harvest, turn.task
    first = first_seed(Purpose.HARVEST, config.seed, round=turn.round)
    jobs = [
        Job(task, first + index, noise=settings.noise, burst=settings.burst)
        for index in range(settings.attempts)
    ]
    done = {(info.provenance.task, info.provenance.seed) for info in store.episodes}
    have = {job.seed for job in jobs if (task, job.seed) in done}
    tried = decisions = 0
    if len(have) >= settings.episodes:
        return Harvested(tried, decisions, len(have))
    with (
        bar(f"Harvest of {turn.name}", settings.episodes) as advance,
        VectorEnv(
            config.suite, admitted(config.suite, policy, config.env.practising()), iter(jobs)
        ) as vec,
    ):
        outcomes = play(vec, Actor(policy), keep_images=True, policy_hash=policy.hash())
        for outcome in in_order(outcomes, jobs):
            if outcome.success and outcome.episode is not None and outcome.job.seed not in have:
                store.append(outcome.episode)
                have.add(outcome.job.seed)
            tried, decisions = tried + 1, decisions + outcome.length
            advance(len(have), f"{len(have)} successes in {tried} episodes")
            if len(have) >= settings.episodes:
                break
    return Harvested(tried, decisions, len(have))


def demonstrations(
    suite: str, tasks: Sequence[str], *, env: EnvConfig, seed: int
) -> dict[str, list[Episode]]:
    """`REPLAYED` successful demonstrations of each task, without pictures: what the blind baseline
    replays."""
    found: dict[str, list[Episode]] = {task: [] for task in tasks}
    first = first_seed(Purpose.BLIND, seed)
    for attempt in range(ROUNDS):
        jobs = [
            Job(task, first + attempt * REPLAYED + index, draw=False)
            for task in tasks
            for index in range(REPLAYED - len(found[task]))
        ]
        if jobs:
            with VectorEnv(
                suite, replace(env, workers=min(env.workers, len(jobs))), iter(jobs)
            ) as vec:
                for outcome in in_order(play(vec, None, keep_images=True), jobs):
                    if outcome.success and outcome.episode is not None:
                        found[outcome.job.task].append(outcome.episode)
    lacking = [task for task in tasks if not found[task]]
    if lacking:
        raise UserError(
            f"the scripted expert never solved {', '.join(lacking)} in {ROUNDS * REPLAYED} tries; "
            "there is nothing to replay"
        )
    return found
