"""What all learners have in common: gradient steps that a NaN cannot spoil, the schedule, means."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from irevla.config import SFTConfig
from irevla.learners.losses import Metrics


def step_if_finite(
    optimizer: torch.optim.Optimizer,
    groups: Mapping[str, Sequence[nn.Parameter]],
    *,
    limit: float,
) -> Metrics:
    """Clip the gradients of each group to norm `limit` and step; clear the gradients.

    Returns the norms before, as "actor_grad_norm". Where one is not finite there is no step, and
    {"skipped": 1} is returned: clipping would spread one NaN to all. Parameters without a gradient
    are not touched.
    """
    norms = {}
    for name, parameters in groups.items():
        key = f"{name}_grad_norm" if name else "grad_norm"
        norms[key] = clip(parameters, limit)
    finite = bool(torch.stack(list(norms.values())).isfinite().all())
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norms if finite else {"skipped": torch.ones(())}


def clip(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Clip their gradients to norm `limit`; return the norm before, on their device.

    Without any gradient, as of an actor while its critic warms up, torch's zero is on the CPU.
    """
    norm = nn.utils.clip_grad_norm_(parameters, limit).detach()
    return norm.to(next(iter(parameters), norm).device)


def learning_rate(config: SFTConfig, step: int) -> float:
    """Return the rate of a step: a linear warm-up, then half a cosine down to 0 at the last."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def unfinished_warm_up(config: SFTConfig, group: str = "") -> str:
    """Return what is said of a warm-up that is longer than the whole schedule; of others "".

    `group` is what the settings are called: "sft.".
    """
    if config.warmup <= config.steps:
        return ""
    reached = config.steps / config.warmup
    return (
        f"{group}warmup {config.warmup} is more than {group}steps {config.steps}: the learning "
        f"rate ends at {reached:.0%} of {group}lr; choose a smaller {group}warmup"
    )


class Means:
    """The means of metrics over steps, each over the steps that have it; "skipped" is counted."""

    def __init__(self) -> None:
        self._columns: dict[str, list[float | Tensor]] = defaultdict(list)

    def add(self, metrics: Mapping[str, float | Tensor]) -> None:
        """Note the metrics of one step."""
        for name, value in metrics.items():
            self._columns[name].append(value)

    def since(self, name: str, place: int) -> list[float]:
        """Return the values of one metric from its `place`th on."""
        return [float(value) for value in self._columns.get(name, [])[place:]]

    def count(self, name: str) -> int:
        """Return how many steps had this metric."""
        return len(self._columns.get(name, []))

    def take(self) -> dict[str, float]:
        """Return the means so far, and begin anew."""
        means = {}
        for name, values in self._columns.items():
            total = sum(float(value) for value in values)
            means[name] = total if name == "skipped" else total / len(values)
        self._columns.clear()
        return means
