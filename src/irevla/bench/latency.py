"""Does learning delay acting? Decisions at a fixed rate, with SAC idle, in a process of its own, in
one that an engine has started (as on another machine), and in a thread.

The toy suite stands for the arm: its worker shows an image when it has done what it was told. A
decision begins at its beat, with that image, and is missed where the action is not sent before the
next beat. With a server, also decisions whose VLM is there, with SAC idle.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from irevla.compute.device import threads
from irevla.config import ComputeConfig, Config, EnvConfig, RolloutsConfig, SACConfig
from irevla.data.replay import LatentEpisode
from irevla.envs.suite import load_suite
from irevla.envs.vector import VectorEnv
from irevla.errors import UserError
from irevla.learners.sac import SAC
from irevla.models.policy import VLAPolicy, build_policy
from irevla.rollout.actors import Decide
from irevla.rollout.encoder import encoder_of
from irevla.rollout.episodes import endless_jobs
from irevla.rollout.fleet import check_rollouts
from irevla.runs.run import Run, open_run
from irevla.stages.async_learner import AsyncLearner
from irevla.stages.keeping import open_replay
from irevla.stages.learner import SACLearner
from irevla.stages.sac_elsewhere import RemoteLearner, submit_sac
from irevla.tasks import Stage
from irevla.types import Features

STAGE = Stage("rl", "left-disc")
ALWAYS = 1e6  # updates per decision: there is always something to learn
EPISODES = 20  # in each buffer at the start
LENGTH = 40  # decisions of each
WARM_UP = 10  # decisions before the clock starts
PARTS = ("encode", "act", "send", "total")
CONFIG = Config(
    suite="pointmass",
    rl="sac",
    env=EnvConfig(workers=1, envs_per_worker=1),
    sac=SACConfig(gripper=False, async_learner=True, updates_per_decision=ALWAYS),
    compute=ComputeConfig(stage1="torchrun"),
)


@dataclass(frozen=True)
class Acting:
    """Who decides, and how many updates there have been meanwhile."""

    decide: Decide
    updates: Callable[[], int]


Way = Callable[[Run, VLAPolicy, SACLearner], AbstractContextManager[Acting]]
"""One way to learn while acting."""


def run(
    *,
    decisions: int = 300,
    hz: float = 10.0,
    config: Config = CONFIG,
    ways: Sequence[str] = (),
    ray_address: str = "",
    ray_resource: str = "",
) -> dict[str, Any]:
    """Make `decisions` at `hz` in each way; without `ways` in all, with the VLM on a server if
    `config` or a `ray_address` names its cluster.

    "ratio" is the 99th percentile of the whole latency while SAC learns in its own process, over
    that while it does not learn; of other ways there is none.
    """
    if ray_resource and not ray_address:
        raise UserError("--ray-resource is of a cluster: name it as --ray-address")
    if ray_address:
        rollouts = RolloutsConfig(encoder="ray", ray_address=ray_address, ray_resource=ray_resource)
        config = replace(config, rollouts=rollouts)
    found = {}
    with tempfile.TemporaryDirectory() as folder, threads(1):
        served = config.rollouts.encoder == "ray"
        check_rollouts(load_suite(config.suite), config, execute=1)  # others take minutes
        for name in ways or [name for name in WAYS if name != "server" or served]:
            with open_run(Path(folder) / name, config) as opened:
                found[name] = _measure_way(opened, WAYS[name], decisions=decisions, hz=hz)
    settings = {
        "decisions": decisions,
        "hz": hz,
        "vlm": Path(config.model.vlm).name,
        "image_size": config.env.image_size,
        "batch": config.sac.batch,
        "utd": config.sac.utd,
    }
    late = {name: each["total"]["p99_ms"] for name, each in found.items()}
    ratio = {"ratio": late["async"] / late["off"]} if {"async", "off"} <= late.keys() else {}
    return {**ratio, **found, "settings": settings}


def _measure_way(opened: Run, way: Way, *, decisions: int, hz: float) -> dict[str, Any]:
    config = opened.config
    torch.manual_seed(0)
    policy = build_policy(config.model, action_dim=2, image_size=config.env.image_size).eval()
    learner = _learner(opened, policy)
    return measure(policy, learner, way, opened, decisions=decisions, hz=hz)


def measure(
    policy: VLAPolicy, learner: SACLearner, way: Way, opened: Run, *, decisions: int, hz: float
) -> dict[str, Any]:
    """Return the latencies of each part of a decision, how many decisions were missed, and how many
    updates there were meanwhile."""
    suite = load_suite(opened.config.suite)
    jobs = endless_jobs(STAGE.task, 0)
    with (
        way(opened, policy, learner) as acting,
        VectorEnv(suite, opened.config.env, jobs) as vec,
    ):
        keep_time(vec, policy, acting.decide, decisions=WARM_UP, hz=hz)
        before = acting.updates()
        start = time.perf_counter()
        seconds = keep_time(vec, policy, acting.decide, decisions=decisions, hz=hz)
        updates = acting.updates() - before
        elapsed = time.perf_counter() - start
    return {
        "decisions": decisions,
        "missed": int((seconds[:, -1] > 1 / hz).sum()),
        "updates_per_s": updates / elapsed,
        **{name: _summary(column) for name, column in zip(PARTS, seconds.T, strict=True)},
    }


@torch.no_grad()
def keep_time(
    vec: VectorEnv, policy: VLAPolicy, decide: Decide, *, decisions: int, hz: float
) -> Float[np.ndarray, "decisions 4"]:
    """Decide at each beat; return the seconds of each of `PARTS`.

    The last of them is from the beat to the action's sending.
    """
    seconds = np.zeros((decisions, len(PARTS)))
    noise = torch.zeros(vec.n, policy.action_dim)
    beat = time.perf_counter()
    for row in seconds:
        result = vec.recv(0)
        beat = max(beat + 1 / hz, time.perf_counter())  # after a missed one, anew
        time.sleep(max(0.0, beat - time.perf_counter()))
        marks = [time.perf_counter()]
        features = policy.encode(result.observation())
        marks.append(time.perf_counter())
        actions = decide(features, noise=noise, chance=noise[:, :1])
        marks.append(time.perf_counter())
        vec.send(0, actions.float().cpu().numpy())
        marks.append(time.perf_counter())
        row[:-1] = np.diff(marks)
        row[-1] = marks[-1] - beat
    return seconds


def _summary(seconds: Float[np.ndarray, " n"]) -> dict[str, float]:
    median, late = np.percentile(1000 * seconds, (50, 99))
    return {"median_ms": float(median), "p99_ms": float(late)}


def _learner(opened: Run, policy: VLAPolicy) -> SACLearner:
    """Return SAC with buffers of random latents: speed does not depend on the values."""
    suite = load_suite(opened.config.suite)
    stores = {
        name: open_replay(opened, policy, STAGE, name, suite=suite)
        for name in ("demonstrations", "online")
    }
    for store in stores.values():
        for seed in range(EPISODES):
            tokens = torch.randn(LENGTH, store.spec.tokens, store.spec.width)
            features = Features(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
            actions = 2 * torch.rand(LENGTH, store.spec.action_dim) - 1
            episode = LatentEpisode(features, actions, torch.zeros(LENGTH))
            store.append(episode, seed=seed, success=False)
    sac = SAC(policy.action_head, opened.config.sac, seed=0)
    return SACLearner(sac, **stores)


# --- ways to learn, or not to


@contextmanager
def _off(opened: Run, policy: VLAPolicy, learner: SACLearner) -> Iterator[Acting]:
    """Do not learn at all."""
    yield Acting(learner.sac.actor.act, lambda: learner.updates)


@contextmanager
def _server(opened: Run, policy: VLAPolicy, learner: SACLearner) -> Iterator[Acting]:
    """Do not learn, and let a server encode, as a run with `rollouts.encoder ray` does."""
    with encoder_of(opened.config.rollouts, policy, stored=True):
        yield Acting(learner.sac.actor.act, lambda: learner.updates)


@contextmanager
def _async(opened: Run, policy: VLAPolicy, learner: SACLearner) -> Iterator[Acting]:
    """Learn as a run with `sac.async_learner` does.

    What the learner says is heard before each decision, which takes the newest actor.
    """
    with AsyncLearner(opened, policy, STAGE, learner) as apart:

        def decide(features: Features, *, noise: Tensor, chance: Tensor) -> Tensor:
            apart.learn()
            return apart.act(features, noise=noise, chance=chance)

        yield Acting(decide, lambda: apart.updates)


@contextmanager
def _elsewhere(opened: Run, policy: VLAPolicy, learner: SACLearner) -> Iterator[Acting]:
    """Learn as a run with `compute.stage1` does: by way of a share."""
    suite = load_suite(opened.config.suite)
    job = submit_sac(
        opened, policy, STAGE, open_replay(opened, policy, STAGE, "online", suite=suite).spec
    )
    try:
        with RemoteLearner(opened, policy, STAGE, learner, job) as remote:

            def decide(features: Features, *, noise: Tensor, chance: Tensor) -> Tensor:
                remote.learn()
                return remote.act(features, noise=noise, chance=chance)

            yield Acting(decide, lambda: remote.updates)
    finally:
        job.drop()


@contextmanager
def _thread(opened: Run, policy: VLAPolicy, learner: SACLearner) -> Iterator[Acting]:
    """Learn in a thread of the same process: the usual short cut."""
    over = threading.Event()

    def learn() -> None:
        torch.set_num_threads(1)
        learner.take_up_all()
        while not over.is_set():
            learner.update()

    thread = threading.Thread(target=learn, daemon=True)
    thread.start()
    try:
        yield Acting(learner.sac.actor.act, lambda: learner.updates)
    finally:
        over.set()
        thread.join()


WAYS: dict[str, Way] = {
    "off": _off,
    "server": _server,
    "async": _async,
    "elsewhere": _elsewhere,
    "thread": _thread,
}
