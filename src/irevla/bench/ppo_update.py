"""What the frozen VLM saves: one PPO update on cached latents against one that encodes every
minibatch again."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from irevla.bench.encode import random_observation
from irevla.bench.mfu import default_device, peak_memory, reset_peak, synchronise
from irevla.bench.vlms import ACTIONS, BenchVLM, find_vlm
from irevla.compute.device import threads
from irevla.config import PPOConfig
from irevla.data.buffers import RolloutBatch
from irevla.learners.losses import gaussian_log_prob
from irevla.learners.ppo import PPO
from irevla.models.heads import CriticHead
from irevla.models.policy import VLAPolicy
from irevla.models.vlm.base import VLM
from irevla.types import Features, Observation

ENVS = 8  # environments
LOSSES = ("actor_loss", "value_loss", "kl")
CONFIG = PPOConfig(target_kl=1e9, warmup=0)  # no early stop, no warm-up: both make all epochs


def run(*, vlm: str = "tiny", samples: int = 1024, repeats: int = 3) -> dict[str, Any]:
    """Return `measure` on one thread, as the updates of a run on a busy machine."""
    with threads(1):
        return measure(vlm, samples=samples, repeats=repeats)


@dataclass
class _Timed:
    """The updates of one kind so far."""

    seconds: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)  # of the last one
    forwards: float = 0.0  # VLM forwards per sample of the last one, the rollout's included


def measure(vlm: str, *, samples: int, repeats: int) -> dict[str, Any]:
    """Take both updates from the same start on the same rollout, in turn; return median times and
    their ratio.

    The rollout's own encoding, the first VLM forward of every sample, is outside both times.
    "loss_difference" is the largest difference of any loss; "forwards_*" are VLM forwards per
    sample, the rollout's included. "stage_1_memory" is the peak of the rollout's encoding and the
    cached updates.
    """
    spec = find_vlm(vlm)
    device = default_device()
    policy = spec.make(device, lora=True).eval()
    counter = _Counted(policy.vlm)
    policy.vlm = counter
    reset_peak(device)
    batch = _rollout(policy, spec, samples)
    memory = _largest(
        peak_memory(device), _peak_of(lambda: _update(policy, batch, live=False), device)
    )
    encoded = counter.images
    cached = _Timed()
    live = _Timed()
    for repeat in range(1 + repeats):  # the first is to warm up
        for kind in (cached, live):
            counter.images = encoded
            taken, kind.metrics = _update(policy, batch, live=kind is live)
            kind.forwards = counter.images / samples
            if repeat > 0:
                kind.seconds.append(taken)
    cached_seconds = float(np.median(cached.seconds))
    live_seconds = float(np.median(live.seconds))
    differences = [abs(cached.metrics[name] - live.metrics[name]) for name in LOSSES]
    return {
        "ratio": live_seconds / cached_seconds,
        "cached_seconds": cached_seconds,
        "reencode_seconds": live_seconds,
        "loss_difference": max(differences),
        "forwards_cached": cached.forwards,
        "forwards_reencode": live.forwards,
        "stage_1_memory": memory,
        "vlm": vlm,
        "samples": samples,
        "epochs": CONFIG.epochs,
        "minibatch": CONFIG.minibatch,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
    }


class _Counted(VLM):
    """A VLM that counts the images it reads."""

    def __init__(self, vlm: VLM) -> None:
        super().__init__()
        self.inner = vlm
        self.width = vlm.width
        self.images = 0

    def encode(self, observation: Observation) -> Features:
        self.images += len(observation)
        return self.inner.encode(observation)


def _peak_of(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    reset_peak(device)
    work()
    return peak_memory(device)


def _largest(*peaks: dict[str, float]) -> dict[str, float]:
    return {name: max(peak[name] for peak in peaks) for name in peaks[0]}


@torch.no_grad()
def _rollout(policy: VLAPolicy, spec: BenchVLM, samples: int) -> RolloutBatch:
    """Return random images, encoded as a rollout does it, those of one step at a time; one reward
    in ten."""
    steps = samples // ENVS
    assert steps * ENVS == samples, f"samples must be a multiple of {ENVS}"
    seen = random_observation(spec, samples)
    starts = range(0, samples, ENVS)
    features = Features.cat([policy.encode(seen[start : start + ENVS]) for start in starts])
    mean = policy.mean(features).view(steps, ENVS, ACTIONS)
    actions = mean + torch.randn_like(mean) * policy.log_std.exp()
    success = torch.rand(steps, ENVS, device=policy.device) < 0.1
    zeros = torch.zeros(steps, ENVS, device=policy.device)
    return RolloutBatch(
        features=features,
        actions=actions,
        log_probs=gaussian_log_prob(actions, mean=mean, log_std=policy.log_std),
        values=zeros,
        next_values=zeros,
        rewards=success.float(),
        terminated=success,
        truncated=torch.zeros_like(success),
        valid=torch.ones_like(success),
        observations=seen,
    )


def _update(
    policy: VLAPolicy, batch: RolloutBatch, *, live: bool
) -> tuple[float, dict[str, float]]:
    """Return the seconds and the metrics of one update of a copy of the policy's head.

    The frozen VLM is shared.
    """
    learner = copy.deepcopy(policy, {id(policy.vlm): policy.vlm})
    torch.manual_seed(1)
    critic = CriticHead.mirror(learner.action_head)
    ppo = PPO(learner, critic, CONFIG, parts="head", seed=0)
    ppo.live = live
    synchronise(policy.device)
    start = time.perf_counter()
    metrics = ppo.update(batch)  # ends with reading its metrics, and so waits for the device
    return time.perf_counter() - start, metrics
