"""How fast pictures become latents: the VLM's forward pass, as a rollout and the harvest make
it."""

from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from irevla.bench.mfu import (
    Stopwatch,
    default_device,
    flop,
    seconds,
    utilisation,
)
from irevla.bench.vlms import INSTRUCTION, BenchVLM, find_vlm, transformer
from irevla.models.policy import VLAPolicy

WARM_UP = 3  # passes before the clock starts


def run(
    *, vlm: str = "tiny", batch: int = 0, repeats: int = 20, compile: bool = False
) -> dict[str, Any]:
    """Encode `batch` pictures (0: as many as suit the VLM) `repeats` times, from uint8 in the CPU's
    memory.

    `compile`: with torch.compile, whose parts are not told apart. "ratio" is the model FLOP
    utilisation.
    """
    spec, device = find_vlm(vlm), default_device()
    policy = spec.make(device, lora=False).eval()
    policy.trainable("none")
    images, texts = pictures(spec, batch or spec.batch), [INSTRUCTION] * (batch or spec.batch)
    per_image = flop(lambda: policy.encode(images[:1], texts[:1]))
    if compile:
        transformer(policy, "--compile").compile()

    def measure() -> list[float]:
        return seconds(
            lambda: policy.encode(images, texts), device, repeats=repeats, warmup=WARM_UP
        )

    result = utilisation(measure, device, images=len(images), flop_per_image=per_image)
    return {
        **result,
        "where": {} if compile else where(policy, spec, images, device),
        "weights": weights(policy),
        "vlm": vlm,
        "compile": compile,
        "batch": len(images),
        "image_size": spec.image_size,
        "repeats": repeats,
    }


def pictures(spec: BenchVLM, count: int) -> UInt8[np.ndarray, "B H W 3"]:
    """Random ones, of the size that the VLM takes."""
    shape = (count, spec.image_size, spec.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def where(
    policy: VLAPolicy, spec: BenchVLM, images: UInt8[np.ndarray, "B H W 3"], device: torch.device
) -> dict[str, float]:
    """Each part's share of the time of a pass; "rest" is everything between the parts, the
    preparation of pictures and prompts above all."""
    with Stopwatch(device, spec.modules(policy)) as watch:
        for _ in range(WARM_UP):
            watch.restart()
            policy.encode(images, [INSTRUCTION] * len(images))
            watch.lap("rest")
    return watch.shares()


def weights(policy: VLAPolicy) -> dict[str, int]:
    """How many parameters there are of each type."""
    counts: dict[str, int] = {}
    for parameter in policy.parameters():
        name = str(parameter.dtype).removeprefix("torch.")
        counts[name] = counts.get(name, 0) + parameter.numel()
    return counts
