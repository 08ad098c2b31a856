"""Stage 1: proximal policy optimisation on latents (section IV-B, equation 3).

It never sees an image, a prompt or a simulator.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from irevla.config import PPOConfig
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
from irevla.learners.optim import Means, step_if_finite
from irevla.storage.checkpoint import load_optimizer, optimizer_tensors
from irevla.tasks import Parts, draw_seed
from irevla.types import Features, Policy

Source = Callable[[Tensor], Features]  # the latents of samples, by their flat indices


class PPO:
    """A policy and its critic, and how they learn from rollouts.

    parts="head" is the paper's stage 1: the VLM is frozen and the latents come from the rollout's
    cache. parts="all" trains everything end to end, the paper's baseline: the encoder is `live`,
    each minibatch's latents are computed anew from the rollout's observations. The order of the
    samples is drawn from (`seed`, update).
    """

    def __init__(
        self,
        policy: Policy,
        critic: nn.Module,
        config: PPOConfig,
        *,
        parts: Parts,
        seed: int,
    ) -> None:
        self.policy = policy
        self.critic = critic
        self.config = config
        self.seed = seed
        self.live = parts == "all"
        self.updates = 0  # rollouts learned from so far
        self.moved = False  # whether any gradient of the actor was not exactly zero
        self.groups = {"actor": policy.trainable(parts), "critic": list(critic.parameters())}
        on_cpu = all(p.device.type == "cpu" for group in self.groups.values() for p in group)
        self.optimizer = torch.optim.Adam(
            [
                {"params": self.groups["actor"], "lr": config.lr},
                {"params": self.groups["critic"], "lr": config.critic_lr},
            ],
            fused=on_cpu or None,  # all of these small tensors in one call
        )

    def update(self, batch: RolloutBatch) -> dict[str, float]:
        """Learn from one rollout: `epochs` passes in random minibatches.

        Fewer where the policy moves past `target_kl`. In the warm-up, the first `config.warmup`
        updates, the critic learns alone and the policy is left exactly as it is. Steps with a
        non-finite gradient are skipped and counted. Returns means over the minibatches, and counts;
        "first_kl" is |E[log r]| of the first minibatch, before any step: 0 but for rounding, unless
        the latents that were acted on are not those that are learnt from.
        """
        warmup = self.updates < self.config.warmup
        generator = torch.Generator().manual_seed(draw_seed(self.seed, "samples", self.updates))
        samples = _Samples(batch, self.config)
        source = self._source(batch, warmup=warmup)
        means = Means()
        epochs = 0
        moved = False
        while epochs < self.config.epochs and not moved:
            before = means.count("kl")
            for index in samples.minibatches(self.config.minibatch, generator):
                first = not means.count("critic_grad_norm")  # nothing has moved yet
                means.add(self._step(samples, index, source, warmup=warmup, first=first))
            epochs += 1
            kl = means.since("kl", before)
            moved = bool(kl) and sum(kl) / len(kl) > self.config.target_kl
        self.updates += 1
        metrics = means.take()
        self.moved |= metrics.get("actor_grad_norm", 0.0) != 0
        return {
            "skipped": 0.0,
            **metrics,
            **samples.metrics(),
            "epochs": float(epochs),
            "entropy": entropy(self.policy.log_std).item(),
            "std": self.policy.log_std.exp().mean().item(),
        }

    def _step(
        self,
        samples: "_Samples",
        index: Int[Tensor, " n"],
        source: Source,
        *,
        warmup: bool,
        first: bool,
    ) -> Metrics:
        """Take one gradient step of the critic and, but for the warm-up, of the actor."""
        features = source(index)
        loss = value_loss(self.critic(features), returns=samples.returns[index])
        metrics: Metrics = {"value_loss": loss.detach()}
        if not warmup:
            actions = samples.actions[index]
            log_std = self.policy.log_std.repeat(self.policy.execute)
            mean = self.policy.mean(features)[:, : len(log_std)]
            log_probs = gaussian_log_prob(actions, mean=mean, log_std=log_std)
            actor_loss, actor_metrics = clipped_surrogate(
                log_probs,
                old_log_probs=samples.log_probs[index],
                advantages=samples.advantages[index],
                clip=self.config.clip,
            )
            loss = loss + actor_loss
            metrics |= actor_metrics
            if first:  # not "kl", which is of second order: bfloat16 would hardly show in it
                metrics["first_kl"] = (log_probs - samples.log_probs[index]).mean().abs().detach()
        loss.backward()  # type: ignore[no-untyped-call]
        done = step_if_finite(self.optimizer, self.groups, limit=self.config.grad_clip)
        return done if "skipped" in done else {**metrics, **done}

    def _source(self, batch: RolloutBatch, *, warmup: bool) -> Source:
        """Return the latents of samples: looked up, or computed anew where the encoder is live."""
        if not self.live:
            return lambda index: Features(
                batch.features.tokens.index_select(0, index),
                batch.features.mask.index_select(0, index),
                batch.features.state.index_select(0, index),
            ).float()
        seen = batch.observations
        assert seen is not None, "a live encoder needs the rollout's observations"

        def encode(index: Tensor) -> Features:
            with torch.set_grad_enabled(not warmup):
                return self.policy.encode(seen[index.tolist()])

        return encode

    def state(self) -> dict[str, Any]:
        """Return all that learning goes on from beside the policy's own files, as files."""
        return {
            "critic.safetensors": dict(self.critic.state_dict()),
            "optimizer.safetensors": optimizer_tensors(self.optimizer),
            "learner.json": {"updates": self.updates, "moved": self.moved},
        }

    def load_state(self, files: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, bit for bit, once the policy has its files."""
        self.critic.load_state_dict(files["critic.safetensors"])
        load_optimizer(self.optimizer, files["optimizer.safetensors"])
        self.updates = files["learner.json"]["updates"]
        self.moved = files["learner.json"].get("moved", True)  # not noted before: no complaint


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
            steps=batch.steps,
        )
        self.valid = batch.valid.flatten().nonzero().squeeze(-1)
        assert len(self.valid) > 0, "no step of the rollout is valid"
        self.actions = batch.actions.flatten(0, 1)
        self.log_probs = batch.log_probs.flatten()
        self.values = batch.values.flatten()
        self.returns = returns.flatten()
        self.advantages = torch.zeros_like(self.returns)
        self.advantages[self.valid] = normalised(advantages.flatten()[self.valid])

    def minibatches(self, size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " n"]]:
        """Yield flat indices of the valid samples in random order.

        They come in parts of about `size`, which differ by one at most.
        """
        shuffled = torch.randperm(len(self.valid), generator=generator)
        order = self.valid[shuffled.to(self.valid.device)]
        yield from order.tensor_split(max(1, round(len(order) / size)))

    def metrics(self) -> dict[str, float]:
        """Return how well the critic foresaw the returns, and their mean.

        1 is perfectly, 0 no better than their mean.
        """
        returns = self.returns[self.valid]
        errors = (self.returns - self.values)[self.valid]
        explained = 1 - errors.var(correction=0) / returns.var(correction=0).clamp_min(1e-8)
        return {"explained_variance": explained.item(), "return": returns.mean().item()}
