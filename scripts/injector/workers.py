"""Environment workers that die or fall silent while they play: the same episodes, all the same."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGSTOP
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from injector.kills import invariants
from injector.lives import changed, differences, left, send
from injector.settings import PPO, TASK, kinds
from injector.tally import Tally
from irevla.algorithm import run_algorithm
from irevla.config import Config
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.models.policy import VLAPolicy
from irevla.rollout.actors import GaussianActor, MeanActor
from irevla.rollout.batches import Collector, RolloutRecorder
from irevla.rollout.demonstrations import collect_expert, open_store
from irevla.rollout.episodes import EpisodeRecorder, endless_jobs
from irevla.rollout.serve import Server
from irevla.runs.run import open_run
from irevla.stages.harvest import run_harvest
from irevla.tasks import Stage
from irevla.types import Features

EVERY = 25  # sends between two hits, on average
SILENT = 0.2  # share of the hits after which the worker is there, but says nothing
PATIENCE = 2.0  # seconds without an answer after which a worker is replaced
MOST_LOSSES = 2  # of a slot's job: at three more it is given up, and rightly
SUITE = load_suite("pointmass")
ENV = replace(PPO.env, timeout=PATIENCE)
QUIET = -30.0  # logarithm of a deviation that no float32 action shows


def attack(count: int, *, seed: int, folder: Path, first: int = 0) -> Tally:
    """Hit workers `count` times in evaluation, PPO's rollouts, SAC, harvest and collection."""
    torch.set_num_threads(1)
    tally = Tally("workers", seed)
    start = folder / "first" / "checkpoints" / "sft"
    sac = kinds(folder)[1].config
    policy = VLAPolicy.from_pretrained(start)
    harvest = changed(sac, env={"timeout": PATIENCE}, harvest={"episodes": 30, "attempts": 200})
    plays: dict[str, Callable[[Path], Any]] = {
        "evaluation": lambda root: _evaluation(policy),
        "rollout": lambda root: _rollout(policy),
        "collection": _collection,
        "harvest": lambda root: _harvest(root, harvest, start),
        "sac": lambda root: _sac(root, changed(sac, env={"timeout": PATIENCE})),
    }
    for name, play in plays.items():
        _hit_until(tally, name, play, count=count, first=first, folder=folder)
    return tally


def _hit_until(
    tally: Tally,
    name: str,
    play: Callable[[Path], Any],
    *,
    count: int,
    first: int,
    folder: Path,
) -> None:
    """Play with hits until there were `count`; each time it must be what it was without."""
    wanted = _played(play, folder / f"workers-{name}")
    number = first
    hits = 0
    while hits < count:
        with Hits(tally.luck(number), most=count - hits).on() as hit:
            found = _played(play, folder / f"workers-{name}")
        hits += hit.number
        if found != wanted:
            tally.fault(number, f"{name}, {hit.number} hits: {_differ(found, wanted)}")
        number += 1
    tally.counts[f"hits in {name}"] += hits


def _played(play: Callable[[Path], Any], root: Path) -> Any:
    shutil.rmtree(root, ignore_errors=True)
    try:
        return play(root)
    except Exception as error:  # noqa: BLE001  # whatever comes out is the fault that is told
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _differ(found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        return "other: " + differences(found, wanted)[:300]
    return f"{str(found)[:300]}, not {str(wanted)[:300]}"


class Hits:
    """Kills or stops a random worker at random sends."""

    def __init__(self, luck: Random, *, most: int, every: int = EVERY) -> None:
        self.number = 0
        self._luck = luck
        self._most = most
        self._every = every

    @contextmanager
    def on(self) -> Iterator["Hits"]:
        """Hit the workers of every `VectorEnv` meanwhile."""
        send_actions = VectorEnv.send

        def hit_too(vec: VectorEnv, worker: int, actions: Any) -> None:
            send_actions(vec, worker, actions)
            if self.number < self._most and self._luck.random() < 1 / self._every:
                self._hit(vec)

        with patch.object(VectorEnv, "send", hit_too):
            yield self

    def _hit(self, vec: VectorEnv) -> None:
        time.sleep(0.003 * self._luck.random())  # before, amid or after its step
        states = [state for state in vec._states if state.process is not None]
        state = self._luck.choice(states)
        if state.process is None or state.losses.max() >= MOST_LOSSES:
            return
        silent = state.process._started and self._luck.random() < SILENT
        send(state.process.pid, SIGSTOP if silent else SIGKILL)
        self.number += 1


# --- What is played


def _evaluation(policy: VLAPolicy) -> dict[str, bytes]:
    jobs = [Job(task.name, seed) for task in SUITE.tasks[:4] for seed in range(20)]
    policy.eval()
    with VectorEnv(SUITE, ENV, iter(jobs)) as vec:
        server = Server(vec, MeanActor(policy), EpisodeRecorder(vec, images=True))
        outcomes = list(server.serve())
    assert len({outcome.job for outcome in outcomes}) == len(outcomes) == len(jobs)
    return {
        f"{outcome.job.task} {outcome.job.seed}": _bytes(outcome.episode) for outcome in outcomes
    }


def _bytes(episode: Any) -> bytes:
    facts = np.array([episode.success, len(episode)])
    arrays = (episode.images, episode.actions, episode.rewards, facts)
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def _rollout(policy: VLAPolicy) -> dict[str, bytes]:
    """The first episodes of PPO's rollouts, without noise: it is drawn for what is left."""
    policy.eval()
    with torch.no_grad():
        policy.log_std.fill_(QUIET)
    found: dict[str, bytes] = {}
    with VectorEnv(SUITE, ENV, endless_jobs(TASK, 1000)) as vec:
        actor = GaussianActor(policy, torch.Generator().manual_seed(0))
        collector = Collector(Server(vec, actor, RolloutRecorder(vec)))
        while len(found) < 100:
            _, stats = collector.collect(_no_value, 16)
            for episode in stats.finished:
                name = f"{episode.job.seed}"
                if name in found:
                    raise AssertionError(f"episode {name} ended twice")
                found[name] = bytes([episode.success, episode.length])
    return {str(seed): found.get(str(seed), b"") for seed in range(1000, 1080)}


def _no_value(features: Features) -> torch.Tensor:
    return torch.zeros(len(features))


def _collection(root: Path) -> dict[str, bytes]:
    expert = replace(PPO.expert, episodes=60)
    collect_expert(SUITE, ("left-disc",), expert, env=ENV, seed=0, root=root / "expert")
    return left(root)


def _harvest(root: Path, config: Config, start: Path) -> dict[str, bytes]:
    with open_run(root, config) as run:
        online = open_store(SUITE, config.env, root / "online", online=True)
        policy = VLAPolicy.from_pretrained(start)
        run_harvest(run, policy, Stage("harvest", TASK), suite=SUITE, online=online)
    return left(root)


def _sac(root: Path, config: Config) -> Any:
    """SAC draws noise for what a lost worker plays again: what must hold for any run of it."""
    with open_run(root, config) as run:
        run_algorithm(run)
        run.write_results()
    (expert,) = (root / "latents" / TASK / "demonstrations").glob("records.bin")
    faults = invariants(root, updates_per_decision=config.sac.updates_per_decision)
    return {"demonstrations": expert.read_bytes(), "faults": "; ".join(faults).encode()}
