"""The loop of the supervised stages, in one process or in several."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from irevla.data.episodes import Frames
from irevla.data.mixture import Mixture
from irevla.learners.optim import Means
from irevla.learners.sft import SFT
from irevla.models.action_scale import ActionScale
from irevla.progress import Advance

LOG_EVERY = 50  # steps between two points of the learning curve


Point = Callable[[Mapping[str, float], bool], None]
"""`point(metrics, validated)`: what is done with a point of the learning curve, and, where it has
`validated`, with a checkpoint."""


def fit(learner: SFT, mixture: Mixture, *, point: Point, advance: Advance) -> None:
    """Let `learner` take the steps that are left, and say how it fares.

    All its ranks come to the same points, with the same metrics.
    """
    config = learner.config
    held_out = mixture.validation()
    means = Means()
    metrics: dict[str, float] = {}
    while learner.updates < config.steps:
        part = learner.ranks.part(config.batch)
        means.add(learner.update(mixture.batch(learner.updates, config.batch, part)))
        step = learner.updates
        validates = step % config.validate_every == 0 or step == config.steps
        if validates or step % LOG_EVERY == 0:
            metrics = means.take()
            if validates:
                metrics |= learner.validate(held_out, mixture.weights())
            point(metrics, validates)
        advance(step, note(metrics))


def in_scale(frames: Frames, scale: ActionScale) -> Frames:
    """Return frames whose actions are in the scale of the head, clipped to it."""
    if scale.kind == "suite":
        return frames
    return replace(frames, actions=scale.scaled(torch.from_numpy(frames.actions)).numpy())


def note(metrics: Mapping[str, float]) -> str:
    """Return what stands beside the bar."""
    shown = {"loss": "loss", "validation": "validation"}
    return ", ".join(f"{name} {metrics[key]:.4f}" for key, name in shown.items() if key in metrics)
