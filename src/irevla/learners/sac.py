"""Stage 1 on a real arm: soft actor-critic on latents, with demonstrations (section V-D).

It never sees an image, a prompt or a robot. Half of every batch is demonstrated, and the critics
are an ensemble with layer norm, as in RLPD (Ball et al. 2023). They are fitted to the returns of
whole episodes: where rewards are sparse and episodes few, what bootstrapped critics say of an
action points the wrong way (docs/log.md, 26 November 2026).
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from irevla.compute.device import seeded
from irevla.config import SACConfig
from irevla.data.buffers import Decisions
from irevla.learners.losses import Metrics
from irevla.learners.optim import Means, step_if_finite
from irevla.learners.sac_losses import (
    anchor_penalty,
    critic_loss,
    gripper_entropy,
    soft_value,
    temperature_loss,
)
from irevla.models.heads import ActionHead
from irevla.models.sac_actor import CriticEnsemble, SoftActor
from irevla.storage.checkpoint import load_optimizer, optimizer_tensors
from irevla.tasks import draw_seed
from irevla.types import Features


class SAC:
    """An action head, trained in place, with its critics, and how they learn from decisions.

    The head as it is now, the SFT policy's, is kept as `reference`: what the actor is anchored to.
    Of a chunk, `execute` actions are learnt, as one of so many dimensions. The reference's token
    learner reads the latents for all critics, each decision once (`read`). New critics, and the
    motions of an update, are drawn from (`seed`, update).
    """

    def __init__(self, head: ActionHead, config: SACConfig, *, seed: int, execute: int = 1) -> None:
        self.config = config
        self.seed = seed
        self.updates = 0  # updates so far, each of `config.utd` critic steps
        self.moved = False  # whether any gradient of the actor was not exactly zero
        self.reference = copy.deepcopy(head).requires_grad_(False)
        self.actor = SoftActor(
            head, discrete_gripper=config.gripper, std=config.std, execute=execute
        )
        self.actor.requires_grad_(True)
        with seeded(draw_seed(seed, "critics")):
            self.critic = CriticEnsemble(
                critics=config.critics,
                width=head.width + head.state_dim,
                motion=self.actor.motion,
                hidden=head.hidden,
                choices=self.actor.choices,
            )
        device = next(head.parameters()).device
        self.critic.to(device)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(config.alpha), device=device))
        self.wanted = config.gripper_entropy * math.log(self.actor.choices)  # nats
        self.groups = {
            "actor": list(self.actor.parameters()),
            "temperature": [self.log_alpha],
            "critic": list(self.critic.parameters()),
        }
        rates = {"actor": config.lr, "temperature": config.lr, "critic": config.critic_lr}
        self.optimizer = torch.optim.Adam(
            [{"params": group, "lr": rates[name]} for name, group in self.groups.items()],
            fused=device.type == "cpu" or None,  # all of these small tensors in one call
        )

    @torch.no_grad()
    def read(self, features: Features) -> Float[Tensor, "B n"]:
        """Return h' of the SFT policy, and the robot's state, which all critics share."""
        h: Tensor = self.reference.read(features.to(self.log_alpha.device))
        return h

    def update(self, batches: Sequence[Decisions], features: Features) -> dict[str, float]:
        """Take one step of the critics on each batch, then one of the actor and the temperature on
        the last, whose latents are `features`.

        In the warm-up, the first `config.warmup` updates, the critics learn alone. Steps with a
        non-finite gradient are skipped and counted. Returns means over the steps, and counts.
        """
        means = Means()
        device = self.log_alpha.device
        for batch in batches:
            last = batch.to(device)
            means.add(self._critic_step(last))
        if self.updates >= self.config.warmup:
            means.add(self._actor_step(last, features.to(device)))
        self.updates += 1
        metrics = means.take()
        self.moved |= metrics.get("actor_grad_norm", 0.0) != 0
        return {"skipped": 0.0, **metrics, "alpha": self.log_alpha.exp().item()}

    def _critic_step(self, batch: Decisions) -> Metrics:
        """Take one gradient step of the critics."""
        motion, gripper = self.actor.split(batch.actions)
        q = self.critic(batch.h, motion)
        loss = critic_loss(q, gripper=gripper, returns=batch.returns)
        loss.backward()  # type: ignore[no-untyped-call]
        done = self._descend("critic")
        if "skipped" in done:
            return done
        return {"critic_loss": loss.detach(), "return": batch.returns.mean(), **done}

    def _actor_step(self, batch: Decisions, features: Features) -> Metrics:
        """Take one gradient step of the actor and the temperature."""
        generator = torch.Generator().manual_seed(draw_seed(self.seed, "sac", self.updates))
        u = self.actor(features)
        noise = torch.randn((len(u), self.actor.motion), generator=generator)
        motion = self.actor.move(u, noise.to(u.device))
        gripper = self.actor.gripper_log_probs(u)
        q = self.critic(batch.h, motion).mean(0)
        value = soft_value(q, gripper=gripper, alpha=self.log_alpha.detach().exp()).mean()
        reference = torch.tanh(self.reference.mlp(batch.h))
        anchor = anchor_penalty(torch.tanh(u), reference=reference)
        entropy = gripper_entropy(gripper).detach()
        loss = self.config.anchor * anchor - value
        loss = loss + temperature_loss(self.log_alpha, entropy=entropy, wanted=self.wanted)
        # Not into the critics: half of the work, and their gradients would stay.
        loss.backward(inputs=[*self.groups["actor"], self.log_alpha])  # type: ignore[no-untyped-call]
        done = self._descend("actor", "temperature")
        if "skipped" in done:
            return done
        return {
            "value": value.detach(),
            "anchor": anchor.detach(),
            "gripper_entropy": entropy,
            **done,
        }

    def _descend(self, *names: str) -> Metrics:
        """Take one gradient step of some groups; the others have no gradients."""
        groups = {name: self.groups[name] for name in names}
        return step_if_finite(self.optimizer, groups, limit=self.config.grad_clip)

    def state(self) -> dict[str, Any]:
        """Return all that learning goes on from beside the policy's files and the buffers, as
        files."""
        return {
            "critic.safetensors": dict(self.critic.state_dict()),
            "reference.safetensors": dict(self.reference.state_dict()),
            "temperature.safetensors": {"log_alpha": self.log_alpha.detach()},
            "optimizer.safetensors": optimizer_tensors(self.optimizer),
            "learner.json": {"updates": self.updates, "moved": self.moved},
        }

    def load_state(self, files: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, bit for bit, once the policy has its files."""
        self.critic.load_state_dict(files["critic.safetensors"])
        self.reference.load_state_dict(files["reference.safetensors"])
        self.log_alpha.data.copy_(files["temperature.safetensors"]["log_alpha"])
        load_optimizer(self.optimizer, files["optimizer.safetensors"])
        self.updates = files["learner.json"]["updates"]
        self.moved = files["learner.json"]["moved"]
