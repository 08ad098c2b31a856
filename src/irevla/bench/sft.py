"""How fast the supervised stages learn: whole steps of `learners.sft.fit`, from drawing the batch
to the optimiser."""

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from irevla.bench.encode import pictures, weights
from irevla.bench.mfu import (
    Stopwatch,
    default_device,
    flop,
    utilisation,
)
from irevla.bench.vlms import ACTIONS, INSTRUCTION, BenchVLM, find_vlm, transformer
from irevla.config import SFTConfig
from irevla.data.episodes import Frames
from irevla.data.mixture import Mixture
from irevla.learners.sft import fit
from irevla.models.policy import VLAPolicy

WARM_UP = 3  # steps before the clock starts
EPISODE = 32  # frames


def run(
    *,
    vlm: str = "tiny",
    batch: int = 0,
    repeats: int = 20,
    gradient_checkpointing: bool = False,
    compile: bool = False,
) -> dict[str, Any]:
    """Make `repeats` supervised steps of `batch` samples (0: as many as suit the VLM), with
    augmentation and AdamW.

    LoRA of rank 16 and the head learn in a large VLM, everything in a small one. "ratio" is the
    model FLOP utilisation of the whole step; what `gradient_checkpointing` computes again does not
    count as work done. `compile`: with torch.compile, whose parts are not told apart.
    """
    spec, device = find_vlm(vlm), default_device()
    batch = batch or spec.samples
    policy = spec.make(device, lora=True)
    per_sample = _flop(policy, spec)
    if gradient_checkpointing:
        transformer(policy, "--gradient-checkpointing").activation_checkpointing_enable(
            {"use_reentrant": False}
        )
    if compile:
        transformer(policy, "--compile").compile()
    mixture = Mixture(frames(spec, 2 * batch))

    def measure() -> list[float]:
        return _steps(policy, mixture, batch=batch, repeats=repeats)

    result = utilisation(measure, device, images=batch, flop_per_image=per_sample)
    return {
        **result,
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
    """A dataset of random pictures and actions, of one task."""
    actions = np.random.default_rng(1).uniform(-1, 1, (count, ACTIONS)).astype(np.float32)
    zeros = np.zeros(count, np.int64)
    return Frames(
        pictures(spec, count),
        actions,
        zeros,
        zeros,
        np.arange(count) // EPISODE,
        (INSTRUCTION,),
        ("task",),
    )


def _flop(policy: VLAPolicy, spec: BenchVLM) -> int:
    """Operations of the forward and backward pass of one sample."""
    policy.trainable("all")
    images = pictures(spec, 1)

    def passes() -> None:
        loss = nn.functional.mse_loss(
            policy(images, [INSTRUCTION]), torch.zeros(1, ACTIONS, device=policy.device)
        )
        loss.backward()  # type: ignore[no-untyped-call]

    count = flop(passes)
    policy.zero_grad(set_to_none=True)
    return count


def _steps(policy: VLAPolicy, mixture: Mixture, *, batch: int, repeats: int) -> list[float]:
    """Seconds of each step after the warm-up. Each one ends with its loss read, and so waits for
    the device."""
    ticks: list[float] = []
    steps = (
        WARM_UP + repeats + 1
    )  # the last also keeps the best weights, which is not a step's work
    config = SFTConfig(steps=steps, batch=batch, validate_every=steps, validation=0.0)
    fit(policy, mixture, config, seed=0, on_step=lambda *_: ticks.append(time.perf_counter()))
    return [
        after - before
        for before, after in zip(ticks[WARM_UP - 1 : -2], ticks[WARM_UP:-1], strict=True)
    ]


def _where(
    policy: VLAPolicy, spec: BenchVLM, mixture: Mixture, *, batch: int, device: torch.device
) -> dict[str, float]:
    """Each part's share of the time of a step.

    "data" is drawing the batch and augmenting it, "backward" also holds the loss and the clipping
    of the gradients, "rest" what lies between the parts of the forward pass.
    """
    config = SFTConfig(steps=2 * WARM_UP, batch=batch, validate_every=2 * WARM_UP, validation=0.0)
    with Stopwatch(device, spec.modules(policy)) as watch:
        start = policy.register_forward_pre_hook(lambda *_: watch.lap("data"))
        end = policy.register_forward_hook(lambda *_: watch.lap("rest"))
        fit(policy, mixture, config, seed=0, on_step=lambda *_: watch.restart())
        start.remove()
        end.remove()
    return watch.shares()
