"""Stage 1: proximal policy optimisation on latents (section IV-B, equation 3).

It never sees a picture, a prompt or a simulator.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from irevla.config import PPOConfig, SACConfig
from irevla.data.buffers import RolloutBatch
from irevla.learners.losses import (
    Metrics,
    clipped_surrogate,
    entropy,
    gae,
    gaussian_log_prob,
    normalised,
    value_loss,
)
from irevla.runs.checkpoint import load_optimizer, optimizer_tensors
from irevla.types import Features

Part = Literal["head", "all"]
Source = Callable[[Tensor], Features]  # the latents of samples, by their flat indices


@runtime_checkable
class LatentActor(Protocol):
    """What PPO needs of a policy."""

    @property
    def log_std(self) -> nn.Parameter:
        """Logarithm of the standard deviation of the exploration noise: trained with the head."""
        ...

    def trainable(self, stage: Part, /) -> list[nn.Parameter]:
        """Make exactly "all" or the "head" trainable; return those parameters."""
        ...

    def mean(self, features: Features, /) -> Float[Tensor, "B A"]:
        """The mean action, with gradients."""
        ...

    def features(self, images: np.ndarray, instructions: Sequence[str], /) -> Features:
        """The latents of pictures, with gradients where the VLM is trainable. Asked for by a live
        encoder only."""
        ...


class PPO:
    """A policy and its critic, and how they learn from rollouts.

    part="head" is the paper's stage 1: the VLM is frozen and the latents come from the rollout's
    cache. part="all" trains everything end to end, the paper's baseline: the encoder is `live`,
    each minibatch's latents are computed anew from the rollout's observations. `generator` (on the
    CPU) decides the order of the samples.
    """

    def __init__(
        self,
        policy: LatentActor,
        critic: nn.Module,
        config: PPOConfig,
        *,
        part: Part,
        generator: torch.Generator,
        live: bool | None = None,
    ) -> None:
        self.policy, self.critic, self.config, self.generator = policy, critic, config, generator
        self.live = part == "all" if live is None else live
        assert self.live or part == "head", "cached latents are stale as soon as the VLM learns"
        self.sides = {"actor": policy.trainable(part), "critic": list(critic.parameters())}
        on_cpu = all(
            parameter.device.type == "cpu" for side in self.sides.values() for parameter in side
        )
        self.optimizer = torch.optim.Adam(
            [
                {"params": self.sides["actor"], "lr": config.lr},
                {"params": self.sides["critic"], "lr": config.critic_lr},
            ],
            fused=on_cpu or None,  # all of these small tensors in one call
        )

    def update(self, batch: RolloutBatch, *, warmup: bool) -> dict[str, float]:
        """Learn from one rollout: `epochs` passes in random minibatches, fewer where the policy
        moves past `target_kl`.

        In the warm-up the critic learns alone, and the policy is left exactly as it is. Steps with
        a non-finite gradient are skipped and counted. Returns means over the minibatches, and
        counts.
        """
        samples, source = _Samples(batch, self.config), self._source(batch, warmup=warmup)
        history: dict[str, list[Tensor]] = defaultdict(list)
        for epoch in range(self.config.epochs):
            before = len(history["kl"])
            for index in samples.minibatches(self.config.minibatch, self.generator):
                for name, value in self._step(samples, index, source, warmup=warmup).items():
                    history[name].append(value)
            history["epochs"] = [torch.tensor(epoch + 1.0)]
            moved = history["kl"][before:]
            if moved and torch.stack(moved).mean() > self.config.target_kl:
                break
        skipped = len(history.pop("skipped", []))
        means = {
            name: torch.stack(values).mean().item() for name, values in history.items() if values
        }
        return {
            **means,
            **samples.metrics(),
            "entropy": entropy(self.policy.log_std).item(),
            "skipped": float(skipped),
        }

    def _step(
        self, samples: "_Samples", index: Int[Tensor, " n"], source: Source, *, warmup: bool
    ) -> Metrics:
        """One gradient step of the critic and, but for the warm-up, of the actor."""
        features = source(index)
        loss = value_loss(self.critic(features), returns=samples.returns[index])
        metrics: Metrics = {"value_loss": loss.detach()}
        if not warmup:
            mean, log_std = self.policy.mean(features), self.policy.log_std
            log_probs = gaussian_log_prob(samples.actions[index], mean=mean, log_std=log_std)
            actor_loss, actor_metrics = clipped_surrogate(
                log_probs,
                old_log_probs=samples.log_probs[index],
                advantages=samples.advantages[index],
                clip=self.config.clip,
            )
            loss = loss + actor_loss
            metrics |= actor_metrics
        loss.backward()  # type: ignore[no-untyped-call]
        norms = self._descend()
        return {**metrics, **norms} if norms else {"skipped": torch.ones(())}

    def _descend(self) -> Metrics:
        """Clip the gradients of each side and step; returns their norms, or nothing where one is
        not finite: no step.

        Clipping would spread one NaN to all. Parameters without a gradient, the actor's in the
        warm-up, are not touched by Adam.
        """
        limit = self.config.grad_clip
        norms = {
            f"{name}_grad_norm": nn.utils.clip_grad_norm_(side, limit)
            for name, side in self.sides.items()
        }
        finite = bool(torch.stack(list(norms.values())).isfinite().all())
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norms if finite else {}

    def _source(self, batch: RolloutBatch, *, warmup: bool) -> Source:
        """The latents of samples: looked up, or computed anew where the encoder is live."""
        if not self.live:
            cache = batch.features
            return lambda index: Features(
                cache.tokens.index_select(0, index), cache.mask.index_select(0, index)
            )
        seen = batch.observations
        assert seen is not None, "a live encoder needs the rollout's observations"

        def encode(index: Tensor) -> Features:
            chosen = index.tolist()
            with torch.set_grad_enabled(not warmup):
                return self.policy.features(
                    seen.images[chosen], [seen.instructions[i] for i in chosen]
                )

        return encode

    def state(self) -> dict[str, dict[str, Tensor]]:
        """All that learning goes on from beside the policy's own files, as files of a
        checkpoint."""
        return {
            "critic.safetensors": dict(self.critic.state_dict()),
            "optimizer.safetensors": optimizer_tensors(self.optimizer),
            "generator.safetensors": {"state": self.generator.get_state()},
        }

    def load_state(self, files: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, bit for bit, once the policy has its files. Other files
        are left to others."""
        self.critic.load_state_dict(files["critic.safetensors"])
        load_optimizer(self.optimizer, files["optimizer.safetensors"])
        self.generator.set_state(files["generator.safetensors"]["state"])


class _Samples:
    """A rollout as one flat axis of samples, with advantages and returns."""

    def __init__(self, batch: RolloutBatch, config: PPOConfig) -> None:
        advantages, returns = gae(
            batch.rewards,
            batch.values,
            next_values=batch.next_values,
            terminated=batch.terminated,
            truncated=batch.truncated,
            valid=batch.valid,
            gamma=config.gamma,
            lam=config.lam,
        )
        self.valid = batch.valid.flatten().nonzero().squeeze(-1)
        assert len(self.valid) > 0, "no step of the rollout is valid"
        self.actions = batch.actions.flatten(0, 1)
        self.log_probs, self.values, self.returns = (
            batch.log_probs.flatten(),
            batch.values.flatten(),
            returns.flatten(),
        )
        self.advantages = torch.zeros_like(self.returns)
        self.advantages[self.valid] = normalised(advantages.flatten()[self.valid])

    def minibatches(self, size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " n"]]:
        """Flat indices of the valid samples in random order, in parts of about `size` that differ
        by one at most."""
        order = self.valid[
            torch.randperm(len(self.valid), generator=generator).to(self.valid.device)
        ]
        yield from order.tensor_split(max(1, round(len(order) / size)))

    def metrics(self) -> dict[str, float]:
        """How well the critic foresaw the returns (1: perfectly, 0: no better than their mean), and
        their mean."""
        returns, errors = self.returns[self.valid], (self.returns - self.values)[self.valid]
        explained = 1 - errors.var(correction=0) / returns.var(correction=0).clamp_min(1e-8)
        return {"explained_variance": explained.item(), "return": returns.mean().item()}


def converged(successes: Sequence[bool], config: PPOConfig | SACConfig) -> bool:
    """Whether stage 1 may end early: `config.converged` of the last `config.window` episodes
    succeeded."""
    recent = successes[-config.window :]
    return len(recent) == config.window and sum(recent) >= config.converged * config.window
