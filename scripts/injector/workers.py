"""Environment workers that die or fall silent while they play: the same episodes, all the same."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGSTOP
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from injector.kills import invariants
from injector.lives import changed, left, send
from injector.settings import PPO, TASK, kinds
from injector.tally import Tally
from irevla.algorithm import run_algorithm
from irevla.config import Config
from irevla.data.episodes import EpisodeStore
from irevla.data.replay import reopen
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.models.policy import VLAPolicy
from irevla.rollout.actors import GaussianActor, MeanActor
from irevla.rollout.batches import Collector, RolloutRecorder
from irevla.rollout.demonstrations import collect_expert, open_store
from irevla.rollout.episodes import EpisodeRecorder, endless_jobs
from irevla.rollout.exploration import PinkNoise
from irevla.rollout.serve import Server
from irevla.runs.run import open_run
from irevla.stages.harvest import run_harvest
from irevla.tasks import Stage
from irevla.types import Features

EVERY = 25  # sends between two hits, on average
SILENT = 0.2  # share of the hits after which the worker is there, but says nothing
PATIENCE = 2.0  # seconds without an answer after which a worker is replaced
MOST_LOSSES = 2  # of a slot's job: at three more it is given up, and rightly
CLOSE = 1e-5  # of actions: with other neighbours in its batch, a policy's last bit may differ
Played = dict[str, np.ndarray]
"""What must be the same with hits and without, by its name."""
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
    plays: dict[str, Callable[[Path], Played]] = {
        "evaluation": lambda root: _evaluation(policy),
        "rollout": lambda root: _rollout(policy),
        "collection": collection,
        "harvest": lambda root: _harvest(root, harvest, start),
        "sac": lambda root: _sac(root, changed(sac, env={"timeout": PATIENCE})),
    }
    with (folder / "workers.log").open("w") as said, redirect_stderr(said):
        for name, play in plays.items():
            hit_until(tally, name, play, count=count, first=first, folder=folder)
    return tally


def hit_until(
    tally: Tally,
    name: str,
    play: Callable[[Path], Played],
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
        if (other := _differ(found, wanted)) != "":
            tally.fault(number, f"{name}, {hit.number} hits: {other}", count=hit.number)
        number += 1
    tally.counts[f"hits in {name}"] += hits


def _played(play: Callable[[Path], Played], root: Path) -> Played | str:
    """Return what was played; in words, where something was raised."""
    shutil.rmtree(root, ignore_errors=True)
    try:
        return play(root)
    except Exception as error:  # noqa: BLE001  # whatever comes out is the fault that is told
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _differ(found: Played | str, wanted: Played | str) -> str:
    """Say which episodes differ; empty where none does."""
    if isinstance(found, str) or isinstance(wanted, str):
        return f"{found if isinstance(found, str) else wanted}"
    names = sorted(found.keys() | wanted.keys())
    return ", ".join(
        name
        for name in names
        if name not in found or name not in wanted or not _same(found[name], wanted[name])
    )


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=0, atol=CLOSE))


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
        if state.process is None or max(map(len, state.losses)) >= MOST_LOSSES:
            return
        silent = state.process._greeted and self._luck.random() < SILENT
        send(state.process.pid, SIGSTOP if silent else SIGKILL)
        self.number += 1


# --- What is played


def _evaluation(policy: VLAPolicy) -> Played:
    jobs = [Job(task.name, seed) for task in SUITE.tasks[:4] for seed in range(20)]
    policy.eval()
    with VectorEnv(SUITE, ENV, iter(jobs)) as vec:
        server = Server(vec, MeanActor(policy), EpisodeRecorder(vec))
        outcomes = list(server.serve())
    assert len({outcome.job for outcome in outcomes}) == len(outcomes) == len(jobs)
    return {
        f"{each.job.task} {each.job.seed}": np.append(each.actions, each.success)
        for each in outcomes
    }


def _rollout(policy: VLAPolicy) -> Played:
    """The first episodes of PPO's rollouts, without noise: it is drawn for what is left."""
    policy.eval()
    with torch.no_grad():
        policy.log_std.fill_(QUIET)
    found: Played = {}
    with VectorEnv(SUITE, ENV, endless_jobs(TASK, 1000)) as vec:
        actor = GaussianActor(policy, PinkNoise(0, decisions=ENV.horizon))
        collector = Collector(Server(vec, actor, RolloutRecorder(vec)))
        while len(found) < 100:
            _, stats = collector.collect(_no_value, 16)
            for episode in stats.finished:
                name = f"{episode.job.seed}"
                if name in found:
                    raise AssertionError(f"episode {name} ended twice")
                found[name] = np.array([episode.success, episode.length])
    return {name: value for name, value in found.items() if int(name) < 1080}


def _no_value(features: Features) -> torch.Tensor:
    return torch.zeros(len(features))


def collection(root: Path) -> Played:
    """Demonstrations of the scripted expert."""
    expert = replace(PPO.expert, episodes=60)
    collect_expert(SUITE, ("left-disc",), expert, env=ENV, seed=0, root=root / "expert")
    return {name: np.frombuffer(data, np.uint8) for name, data in left(root).items()}


def _harvest(root: Path, config: Config, start: Path) -> Played:
    with open_run(root, config) as run:
        online = open_store(SUITE, config.env, root / "online", online=True)
        policy = VLAPolicy.from_pretrained(start)
        run_harvest(run, policy, Stage("harvest", TASK), suite=SUITE, online=online)
    return {f"{each.provenance.seed}": each.actions for each in EpisodeStore(root / "online")}


def _sac(root: Path, config: Config) -> Played:
    """SAC draws noise for what a lost worker plays again: what must hold for any run of it."""
    with open_run(root, config) as run:
        run_algorithm(run)
        run.write_results()
    faults = invariants(root, updates_per_decision=config.sac.updates_per_decision)
    demonstrations = reopen(root / "latents" / TASK / "demonstrations").episodes
    seeds = np.array([each["seed"] for each in demonstrations])
    return {"demonstrated seeds": seeds} | {fault: np.zeros(0) for fault in faults}
