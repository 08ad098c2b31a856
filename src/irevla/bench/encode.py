"""How fast images become latents: the VLM's forward pass, as a rollout and the harvest make it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from irevla.bench.mfu import (
    Stopwatch,
    default_device,
    flop,
    median,
    seconds,
    utilisation,
)
from irevla.bench.vlms import INSTRUCTION, BenchVLM, find_vlm, transformer
from irevla.errors import UserError
from irevla.models.policy import VLAPolicy
from irevla.models.vlm.huggingface import compile_layers
from irevla.types import Features, Observation

WARM_UP = 3  # passes before the clock starts


def run(
    *,
    vlm: str = "tiny",
    batch: int = 0,
    repeats: int = 20,
    lora: bool = False,
    compile: bool = False,
) -> dict[str, Any]:
    """Encode `batch` images (0: as many as suit the VLM) `repeats` times, from uint8 in the CPU's
    memory.

    `lora`: with LoRA of rank 16, as a rollout has it. `compile`: with torch.compile, whose parts
    are not told apart. "ratio" is the model FLOP utilisation; of a small VLM, "against_float32" is
    how many times as long it takes in that.
    """
    spec = find_vlm(vlm)
    if lora and not spec.adapts:
        raise UserError("--lora is for a VLM that LoRA adapts: leave it out, or choose --vlm blip2")
    device = default_device()
    policy = spec.make(device, lora=lora).eval()
    policy.trainable("none")
    observation = random_observation(spec, batch or spec.batch)
    per_image = flop(lambda: encode(policy, observation[:1]))
    if compile:
        compile_layers(transformer(policy, "--compile"))

    def measure() -> list[float]:
        return seconds(lambda: encode(policy, observation), device, repeats=repeats, warmup=WARM_UP)

    result = utilisation(measure, device, images=len(observation), flop_per_image=per_image)
    return {
        **result,
        **against_float32(policy, measure, result["seconds"]),
        "where": {} if compile else where(policy, spec, observation, device),
        "weights": weights(policy),
        "vlm": vlm,
        "lora_rank": policy.config.lora.rank,
        "compile": compile,
        "batch": len(observation),
        "image_size": spec.image_size,
        "repeats": repeats,
    }


@torch.no_grad()
def encode(policy: VLAPolicy, observation: Observation) -> Features:
    """Return latents as RL caches them: without gradients."""
    return policy.encode(observation)


def against_float32(
    policy: VLAPolicy, measure: Callable[[], list[float]], middle: float
) -> dict[str, float]:
    """Return how many times as long all products in float32 take as `middle` seconds.

    Nothing for a VLM of transformers, whose type is its weights'.
    """
    if policy.config.pretrained:
        return {}
    with float32(policy):
        return {"against_float32": median(measure()) / middle}


@contextmanager
def float32(policy: VLAPolicy) -> Iterator[None]:
    """Let a policy compute everything in float32."""
    config = policy.config
    policy.config = replace(config, dtype="float32")
    try:
        yield
    finally:
        policy.config = config


def random_images(spec: BenchVLM, count: int) -> UInt8[np.ndarray, "B H W 3"]:
    """Return random images of the size that the VLM takes."""
    shape = (count, spec.image_size, spec.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def random_observation(spec: BenchVLM, count: int) -> Observation:
    """Return random images, all with the same instruction."""
    return Observation.of(random_images(spec, count), [INSTRUCTION] * count)


def where(
    policy: VLAPolicy, spec: BenchVLM, observation: Observation, device: torch.device
) -> dict[str, float]:
    """Return each part's share of the time of a pass.

    "rest" is everything between the parts, the preparation of images and prompts above all.
    """
    with Stopwatch(device, spec.modules(policy)) as watch:
        for _ in range(WARM_UP):
            watch.restart()
            encode(policy, observation)
            watch.lap("rest")
    return watch.shares()


def weights(policy: VLAPolicy) -> dict[str, int]:
    """Return how many parameters there are of each type."""
    counts: dict[str, int] = {}
    for parameter in policy.parameters():
        name = str(parameter.dtype).removeprefix("torch.")
        counts[name] = counts.get(name, 0) + parameter.numel()
    return counts
