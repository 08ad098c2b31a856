"""How much memory each stage needs, computed from the architecture alone: no weights, no GPU.

What is computed is what stays from step to step: weights, gradients, the optimiser's moments,
cached latents. What comes and goes, activations above all, must be measured: `irevla bench
ppo-update` and `irevla bench sft` do it.
"""

from typing import Any

import torch

from irevla.bench.mfu import GIB
from irevla.bench.vlms import VLMS, BenchVLM
from irevla.config import PPOConfig
from irevla.models.policy import Stage, VLAPolicy

SHOWN = ("tiny", "blip2")
ENVS = 8  # environments whose rollout is cached in stage 1
STAGE_1, ADAPTED, EVERYTHING = (
    "stage 1: head",
    "stages 0, 2: LoRA and head",
    "stages 0, 2: everything",
)


def run() -> dict[str, Any]:
    """Rows of the table, one for each stage of each VLM, in GiB.

    "ratio" is what BLIP-2 2.7B needs when everything is trained, over what it needs with LoRA.
    """
    rows = [row for name in SHOWN for row in rows_of(name, VLMS[name])]
    totals = {(row["vlm"], row["stage"]): row["total_gib"] for row in rows}
    return {
        "ratio": totals["blip2", EVERYTHING] / totals["blip2", ADAPTED],
        "source": "computed; activations not included",
        "rows": rows,
    }


def rows_of(name: str, spec: BenchVLM) -> list[dict[str, Any]]:
    """The rows of one VLM. Where it learns by LoRA, that is there in stage 1, too, frozen."""
    usual, plain = (spec.make(torch.device("meta"), lora=lora) for lora in (True, False))
    rows = [_row(usual, spec, "head"), _row(usual, spec, "all"), _row(plain, spec, "all")]
    labels = (STAGE_1, ADAPTED, EVERYTHING)
    labelled = [
        {"vlm": name, "stage": label, **row} for label, row in zip(labels, rows, strict=True)
    ]
    return labelled if spec.adapts else [labelled[0], labelled[2]]


def _row(policy: VLAPolicy, spec: BenchVLM, stage: Stage) -> dict[str, Any]:
    """What one stage keeps in memory.

    Gradients take as much as the parameters that they belong to, and so does each of Adam's two
    moments.
    """
    trainable = policy.trainable(stage)
    parts = {
        "weights_gib": _bytes(list(policy.parameters())),
        "gradients_gib": _bytes(trainable),
        "adam_gib": 2 * _bytes(trainable),
    }
    if stage == "head":  # the critic mirrors the head, with its own gradients and moments
        parts["critic_gib"] = 4 * _bytes(list(policy.action_head.parameters()))
        parts["latents_gib"] = ENVS * PPOConfig().rollout * spec.tokens * policy.vlm.width * 4
    gib = {part: value / GIB for part, value in parts.items()}
    return {
        "parameters": sum(parameter.numel() for parameter in policy.parameters()),
        "trainable": sum(parameter.numel() for parameter in trainable),
        "dtype": _dtype(policy),
        **gib,
        "total_gib": sum(gib.values()),
    }


def _bytes(parameters: list[torch.nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _dtype(policy: VLAPolicy) -> str:
    """That of the VLM's own weights."""
    return str(next(policy.vlm.parameters()).dtype).removeprefix("torch.")
