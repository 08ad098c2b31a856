"""How fast the supervised stages learn: whole steps, from sampling the batch to the optimiser."""

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from irevla.bench.encode import against_float32, random_images, random_observation, weights
from irevla.bench.mfu import (
    Stopwatch,
    default_device,
    flop,
    utilisation,
)
from irevla.bench.vlms import ACTIONS, INSTRUCTION, BenchVLM, find_vlm, transformer
from irevla.config import MixtureConfig, SFTConfig
from irevla.data.episodes import Frames
from irevla.data.mixture import Mixture
from irevla.learners.sft import SFT
from irevla.models.policy import VLAPolicy
from irevla.models.vlm.base import VLM
from irevla.models.vlm.huggingface import compile_layers
from irevla.types import Features, Observation

WARM_UP = 3  # steps before the clock starts
WATCHED = 2 * WARM_UP  # steps whose parts are told apart
EPISODE = 32  # frames


def run(
    *,
    vlm: str = "tiny",
    batch: int = 0,
    repeats: int = 20,
    gradient_checkpointing: bool = False,
    compile: bool = False,
) -> dict[str, Any]:
    """Take `repeats` supervised steps of `batch` samples (0: as many as suit the VLM).

    With augmentation and AdamW. LoRA of rank 16 and the head learn in a large VLM, everything in a
    small one. "ratio" is the model FLOP utilisation of the whole step; what
    `gradient_checkpointing` computes again does not count as work done. `compile`: with
    torch.compile, whose parts are not told apart. "against_float32" as of `encode`.
    """
    spec = find_vlm(vlm)
    device = default_device()
    batch = batch or spec.samples
    policy = spec.make(device, lora=True)
    per_sample = _flop(policy, spec)
    if gradient_checkpointing:
        transformer(policy, "--gradient-checkpointing").activation_checkpointing_enable(
            {"use_reentrant": False}
        )
    if compile:
        compile_layers(transformer(policy, "--compile"))
    mixture = Mixture(frames(spec, 2 * batch), None, MixtureConfig(validation=0.0), seed=0)

    def measure() -> list[float]:
        return _steps(policy, mixture, batch=batch, repeats=repeats)

    result = utilisation(measure, device, images=batch, flop_per_image=per_sample)
    return {
        **result,
        **against_float32(policy, measure, result["seconds"]),
        "where": {} if compile else _where(policy, spec, mixture, batch=batch, device=device),
        "weights": weights(policy),
        "trainable": sum(parameter.numel() for parameter in policy.trainable("all")),
        "vlm": vlm,
        "lora_rank": policy.config.lora.rank,
        "gradient_checkpointing": gradient_checkpointing,
        "compile": compile,
        "batch": batch,
        "image_size": spec.image_size,
        "repeats": repeats,
    }


def frames(spec: BenchVLM, count: int) -> Frames:
    """Return a dataset of `count` random images and actions, of one task."""
    actions = np.random.default_rng(1).uniform(-1, 1, (count, ACTIONS)).astype(np.float32)
    zeros = np.zeros(count, np.int64)
    return Frames(
        images=random_images(spec, count),
        actions=actions,
        instruction=zeros,
        task=zeros,
        episode=np.arange(count) // EPISODE,
        instructions=(INSTRUCTION,),
        tasks=("task",),
    )


def _flop(policy: VLAPolicy, spec: BenchVLM) -> int:
    """Return the operations of the forward and backward pass of one sample."""
    policy.trainable("all")
    observation = random_observation(spec, 1)
    target = torch.zeros(1, ACTIONS, device=policy.device)

    def passes() -> None:
        prediction = policy.mean(policy.encode(observation))
        nn.functional.mse_loss(prediction, target).backward()  # type: ignore[no-untyped-call]

    count = flop(passes)
    policy.zero_grad(set_to_none=True)
    return count


def _learner(policy: VLAPolicy, *, steps: int, batch: int) -> SFT:
    return SFT(policy, SFTConfig(steps=steps, batch=batch), parts="all", seed=0)


def _steps(policy: VLAPolicy, mixture: Mixture, *, batch: int, repeats: int) -> list[float]:
    """Return the seconds of each step after the warm-up.

    Each step ends with its loss read, and so waits for the device.
    """
    learner = _learner(policy, steps=WARM_UP + repeats, batch=batch)
    taken = []
    for step in range(WARM_UP + repeats):
        start = time.perf_counter()
        learner.update(mixture.batch(step, batch))
        taken.append(time.perf_counter() - start)
    return taken[WARM_UP:]


def _where(
    policy: VLAPolicy, spec: BenchVLM, mixture: Mixture, *, batch: int, device: torch.device
) -> dict[str, float]:
    """Return each part's share of the time of a step.

    "data" is sampling the batch and augmenting it, "backward" also holds the loss and the clipping
    of the gradients, "rest" what lies between the parts of the forward pass.
    """
    vlm = policy.vlm
    learner = _learner(policy, steps=WATCHED, batch=batch)
    with Stopwatch(device, spec.modules(policy)) as watch:
        policy.vlm = _Watched(vlm, watch)
        for step in range(WATCHED):
            watch.restart()
            learner.update(mixture.batch(step, batch))
    policy.vlm = vlm
    return watch.shares()


class _Watched(VLM):
    """A VLM that tells a stopwatch when it begins to read, and when it has read."""

    def __init__(self, vlm: VLM, watch: Stopwatch) -> None:
        super().__init__()
        self.inner = vlm
        self.width = vlm.width
        self._watch = watch

    def encode(self, observation: Observation) -> Features:
        self._watch.lap("data")
        features = self.inner.encode(observation)
        self._watch.lap("rest")
        return features
