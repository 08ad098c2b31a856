"""What the frozen VLM saves: one PPO update on cached latents against one that encodes every
minibatch again."""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from irevla.bench.encode import pictures
from irevla.bench.mfu import default_device, peak_memory, reset_peak, synchronise
from irevla.bench.vlms import ACTIONS, INSTRUCTION, BenchVLM, find_vlm
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


def run(*, vlm: str = "tiny", samples: int = 1024, repeats: int = 3) -> dict[str, Any]:
    """`measure` on one thread, as the updates of a run on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure(vlm, samples=samples, repeats=repeats)
    finally:
        torch.set_num_threads(threads)


def measure(vlm: str, *, samples: int, repeats: int) -> dict[str, Any]:
    """Make both updates from the same start on the same rollout, in turn; median times and their
    ratio.

    The rollout's own encoding, the first VLM forward of every sample, is outside both times.
    "loss_difference" is the largest difference of any loss; "forwards_*" are VLM forwards per
    sample, the rollout's included. "stage_1_memory" is the peak of the rollout's encoding and the
    cached updates.
    """
    config = PPOConfig(target_kl=1e9)  # no early stop: both make all epochs
    spec, device = find_vlm(vlm), default_device()
    policy = spec.make(device, lora=True).eval()
    policy.vlm = counter = _Counted(policy.vlm)
    reset_peak(device)
    batch = _rollout(policy, spec, samples)
    memory = _largest(
        peak_memory(device), _peak_of(lambda: _update(policy, batch, config, live=False), device)
    )
    encoded = counter.images
    seconds: dict[bool, list[float]] = {False: [], True: []}
    metrics: dict[bool, dict[str, float]] = {}
    forwards: dict[bool, float] = {}
    for repeat in range(1 + repeats):  # the first is to warm up
        for live in (False, True):
            counter.images = encoded
            taken, metrics[live] = _update(policy, batch, config, live=live)
            forwards[live] = counter.images / samples
            seconds[live] += [taken] if repeat > 0 else []
    cached, reencode = (float(np.median(seconds[live])) for live in (False, True))
    return {
        "ratio": reencode / cached,
        "cached_seconds": cached,
        "reencode_seconds": reencode,
        "loss_difference": max(abs(metrics[False][name] - metrics[True][name]) for name in LOSSES),
        "forwards_cached": forwards[False],
        "forwards_reencode": forwards[True],
        "stage_1_memory": memory,
        "vlm": vlm,
        "samples": samples,
        "epochs": config.epochs,
        "minibatch": config.minibatch,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
    }


class _Counted(VLM):
    """A VLM that counts the pictures it reads."""

    def __init__(self, vlm: VLM) -> None:
        super().__init__()
        self.inner, self.width, self.images = vlm, vlm.width, 0

    def encode(self, images: UInt8[Tensor, "B H W 3"], instructions: Sequence[str]) -> Features:
        self.images += len(images)
        return self.inner.encode(images, instructions)


def _peak_of(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    reset_peak(device)
    work()
    return peak_memory(device)


def _largest(*peaks: dict[str, float]) -> dict[str, float]:
    return {name: max(peak[name] for peak in peaks) for name in peaks[0]}


def _rollout(policy: VLAPolicy, spec: BenchVLM, samples: int) -> RolloutBatch:
    """Random pictures, encoded as a rollout does it, those of one step at a time; one reward in
    ten."""
    steps, device = samples // ENVS, policy.device
    assert steps * ENVS == samples, f"samples must be a multiple of {ENVS}"
    images, texts = pictures(spec, samples), [INSTRUCTION] * ENVS
    features = Features.cat(
        [policy.encode(images[t : t + ENVS], texts) for t in range(0, samples, ENVS)]
    )
    with torch.no_grad():
        mean = policy.mean(features).view(steps, ENVS, ACTIONS)
        actions = mean + torch.randn_like(mean) * policy.log_std.exp()
        log_probs = gaussian_log_prob(actions, mean=mean, log_std=policy.log_std)
    success = torch.rand(steps, ENVS, device=device) < 0.1
    return RolloutBatch(
        features=features,
        actions=actions,
        log_probs=log_probs,
        values=torch.zeros(steps, ENVS, device=device),
        next_values=torch.zeros(steps, ENVS, device=device),
        rewards=success.float(),
        terminated=success,
        truncated=torch.zeros_like(success),
        valid=torch.ones_like(success),
        observations=Observation(images, (INSTRUCTION,) * samples),
    )


def _update(
    policy: VLAPolicy, batch: RolloutBatch, config: PPOConfig, *, live: bool
) -> tuple[float, dict[str, float]]:
    """Seconds and metrics of one update of a copy of the policy's head; the frozen VLM is
    shared."""
    learner = copy.deepcopy(policy, {id(policy.vlm): policy.vlm})
    torch.manual_seed(1)
    critic = CriticHead.mirror(learner.action_head)
    ppo = PPO(
        learner, critic, config, part="head", generator=torch.Generator().manual_seed(0), live=live
    )
    synchronise(policy.device)
    start = time.perf_counter()
    metrics = ppo.update(
        batch, warmup=False
    )  # ends with reading its metrics, and so waits for the device
    return time.perf_counter() - start, metrics
