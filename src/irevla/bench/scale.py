"""What more actors bring: costs measured here, rollouts by 1, 2 and 4 actors on Ray against what
the simulation makes of these costs, and the same simulation for 8 to 512 GPUs.

The environments' and the learner's costs are this machine's. Those of BLIP-2 2.7B are of an H100
and an H200, as results/bench has them; the network between machines is an assumption.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irevla.bench.simulation import Costs, Layout, Round, asynchronous, synchronous
from irevla.compute.device import threads
from irevla.compute.ray_actors import RayActors, own_cluster
from irevla.config import EnvConfig, ModelConfig, PPOConfig, RolloutsConfig
from irevla.data.buffers import RolloutBatch
from irevla.envs.suite import Authorization, Suite, load_suite
from irevla.learners.ppo import PPO
from irevla.models.heads import CriticHead
from irevla.models.policy import VLAPolicy, build_policy
from irevla.progress import console
from irevla.rollout.batches import Columns, RolloutStats
from irevla.rollout.fleet import head_message
from irevla.rollout.practice import Practice, open_rollouts
from irevla.rollout.wire import rollout_of_files, rollout_to_files
from irevla.storage.message import pack, unpack
from irevla.types import Observation

ENV = EnvConfig(workers=1)
DECISIONS = 64  # of each environment in a rollout that is measured
REPEATS = 6
HERE = (1, 2, 4)  # actors on this machine
GPUS = (8, 16, 32, 64, 128, 256, 512)
MEGABYTES = 32  # of the message that measures the bandwidth

GPU = Layout(actors=1, workers=8, envs=8, decisions=128, cores=16, gpu=True)
"""Who plays on each GPU's machine in the simulation."""
NETWORK = {"latency": 1e-3, "bandwidth": 1.25e9}
"""Assumed between machines: 1 ms there and back, 10 Gbit/s to the learner."""
BLIP2 = {
    "encode": 0.0696842 - 16 * 0.0019292,
    "image": 0.0019292,
    "update": 0.083119 / 1024,
    "head": 4.0 * 697_752,
    "decision": 48.0 * (2 * 2560 + 1),
}
"""BLIP-2 2.7B with LoRA 16 at 224 px: 16 images in 0.0697 s (an H100, encode-blip2-lora-16.json),
64 without LoRA in 0.1235 s, of which the time of one more image; 1,024 samples in four epochs in
0.0831 s (an H200, ppo-update-blip2.json); 48 tokens of 2,560 in bfloat16."""


class Echo:
    """What lives in an actor to measure messages: it answers each with itself."""

    def answer(self, message: bytes) -> bytes:
        """Return the message."""
        return message


def run(*, suite: str = "metaworld") -> dict[str, Any]:
    """Return the costs, the rounds here as measured and as simulated, and the simulated rounds of
    many GPUs.

    "ratio" is the decisions/s of the most actors here over those of one, which no machine with as
    few cores as actors can make large.
    """
    found = load_suite(suite)
    found.check()
    with threads(1), _cluster() as has_ray:
        bench = _Bench.of(found)
        costs = bench.costs(has_ray)
        rows = [bench.row(costs, actors) for actors in (HERE if has_ray else ())]
    small = replace(costs, **NETWORK)
    rates = [row["decisions_per_s"] for row in rows]
    return {
        "ratio": rates[-1] / rates[0] if rates else 1.0,
        "costs": vars(costs),
        "cores": _cores(),
        "here": rows,
        "assumed": {**vars(GPU), **NETWORK},
        "small_vlm": list(_many(small)),
        "blip2": list(_many(replace(small, **BLIP2))),
        "suite": suite,
        "load": os.getloadavg()[0],
    }


def _many(costs: Costs) -> Iterator[dict[str, Any]]:
    """Yield what the simulation says of each number of GPUs."""
    one = synchronous(costs, GPU).decisions_per_s
    for gpus in GPUS:
        there = replace(GPU, actors=gpus)
        wait = synchronous(costs, there)
        ahead = asynchronous(costs, there)
        yield {
            "gpus": gpus,
            **_said(wait),
            "efficiency": wait.decisions_per_s / (one * gpus),
            "asynchronous": _said(ahead),
        }


def _said(round: Round) -> dict[str, Any]:
    kept = round.to_json()
    kept.pop("parts")
    return kept


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def _cluster() -> Iterator[bool]:
    """Be a cluster, where there is Ray; yield whether."""
    if find_spec("ray") is None:
        console.print("no Ray here: costs and simulation alone", style="yellow")
        yield False
        return
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    with own_cluster(cpus=2 * max(HERE), path=path):
        yield True


@dataclass
class _Bench:
    """What is measured: a policy that learns by PPO in one suite."""

    suite: Suite
    policy: VLAPolicy
    learner: PPO
    practice: Practice

    @staticmethod
    def of(suite: Suite) -> "_Bench":
        torch.manual_seed(0)
        policy = build_policy(
            ModelConfig(vlm="tiny-random"), action_dim=suite.action_dim, image_size=ENV.image_size
        ).eval()
        policy.reset_exploration(0.2)
        critic = CriticHead.mirror(policy.action_head)
        learner = PPO(policy, critic, PPOConfig(target_kl=1e9, warmup=0), parts="head", seed=0)
        practice = Practice(suite, ENV, suite.tasks[0].name, first=0, explore=0, gamma=1.0)
        return _Bench(suite, policy, learner, practice)

    def costs(self, has_ray: bool) -> Costs:
        """Measure each cost for itself."""
        encode, image = self._encoding()
        seconds, batches, stats = zip(*self._rollouts(RolloutsConfig()), strict=True)
        batch = batches[-1]
        decisions = batch.valid.numel()
        turns = DECISIONS * ENV.workers
        waited = _median([each.env_seconds for each in stats]) / turns  # for its only worker
        encoded = _median([each.encode_seconds for each in stats]) / turns
        message = _sent(batch)
        latency, bandwidth = _messages() if has_ray else tuple(NETWORK.values())
        return Costs(
            step=waited / ENV.envs_per_worker,
            encode=encode,
            image=image,
            act=max(0.0, _median(seconds) / turns - waited - encoded),
            update=_clocked(lambda: self.learner.update(batch)) / decisions,
            pack=_clocked(lambda: _sent(batch)) / len(message),
            unpack=_clocked(lambda: rollout_of_files(unpack(message))) / len(message),
            head=float(len(pack(head_message(self.policy, "head")))),
            decision=len(message) / decisions,
            latency=latency,
            bandwidth=bandwidth,
            spread=float(np.std(seconds) / np.mean(seconds)),
        )

    def _encoding(self) -> tuple[float, float]:
        """Return the seconds of a pass of the VLM, and of each image in it."""
        few, many = ENV.envs_per_worker, 4 * ENV.envs_per_worker
        seconds = {}
        for number in (few, many):
            images = np.zeros((number, *ENV.image_shape), np.uint8)
            seen = Observation.of(images, [self.suite.tasks[0].instruction] * number)
            with torch.no_grad():
                seconds[number] = _clocked(partial(self.policy.encode, seen), times=50)
        image = max(0.0, (seconds[many] - seconds[few]) / (many - few))
        return max(0.0, seconds[few] - few * image), image

    def _rollouts(
        self, config: RolloutsConfig
    ) -> Iterator[tuple[float, RolloutBatch, RolloutStats]]:
        """Yield rollouts, and the seconds that each took; the first ones are to warm up."""
        who = Authorization(self.policy.hash(), learning=True)
        options: dict[str, Any] = {"live": False, "acting": who, "files": {}}
        with open_rollouts(config, self.policy, self.practice, **options) as rollouts:
            rollouts.collect(self.learner.critic, DECISIONS // 4)
            for _ in range(REPEATS):
                start = time.perf_counter()
                batch, stats = rollouts.collect(self.learner.critic, DECISIONS)
                yield time.perf_counter() - start, batch, stats

    def row(self, costs: Costs, actors: int) -> dict[str, Any]:
        """Return what rollouts and updates come to with so many actors here, and what the
        simulation says that they should."""
        config = RolloutsConfig(backend="ray", actors=actors, device="cpu")
        seconds = []
        for played, batch, _ in self._rollouts(config):
            start = time.perf_counter()
            self.learner.update(batch)
            seconds.append(played + time.perf_counter() - start)
        layout = Layout(
            actors=actors,
            workers=ENV.workers,
            envs=ENV.envs_per_worker,
            decisions=DECISIONS,
            cores=_cores(),
            together=actors,
        )
        simulated = synchronous(costs, layout)
        measured = layout.batch / _median(seconds)
        return {
            "actors": actors,
            "decisions_per_s": measured,
            "simulated": simulated.decisions_per_s,
            "off_by": simulated.decisions_per_s / measured - 1,
            "bottleneck": simulated.bottleneck,
        }


def _sent(batch: RolloutBatch) -> bytes:
    """Return a rollout as an actor sends it."""
    rows, width = batch.rewards.shape
    places = torch.arange((rows + 1) * width).view(rows + 1, width)
    columns = Columns(
        features=batch.features,
        places=places,
        listed=places[:-1],
        actions=batch.actions,
        log_probs=batch.log_probs,
        rewards=batch.rewards,
        terminated=batch.terminated,
        truncated=batch.truncated,
        valid=batch.valid,
        steps=torch.ones_like(places[:-1]),
        finals=(),
    )
    return pack(rollout_to_files(columns, RolloutStats(batch.valid.numel(), (), 0, 0.0, 0.0)))


def _messages() -> tuple[float, float]:
    """Return the seconds of an empty message there and back, and the bytes a second of a large
    one, of which there go as many each way."""
    actors = RayActors(
        "irevla.bench.scale:Echo",
        number=1,
        address="auto",
        asked="",
        resource="",
        cpus=1,
        device="cpu",
        patience=60.0,
    )
    try:

        def exchange(message: bytes) -> bytes:
            return actors.answer(0, actors.ask(0, message))

        latency = _clocked(partial(exchange, b""), times=50)
        large = _clocked(partial(exchange, bytes(MEGABYTES << 20)))
    finally:
        actors.close()
    return latency, 2 * (MEGABYTES << 20) / max(1e-9, large - latency)


def _clocked(work: Callable[[], Any], *, times: int = REPEATS) -> float:
    """Return the seconds that something takes, in the middle of so many; the first is to warm
    up."""
    work()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return _median(seconds)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
