"""Stage 1 on a real arm: soft actor-critic on latents, with demonstrations (section V-D).

It never sees an image, a prompt or a robot. As in RLPD (Ball et al. 2023): half of every batch is
demonstrated, and the target is the minimum of a few critics of an ensemble with layer norm.
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
from irevla.data.buffers import Transitions
from irevla.learners.losses import Metrics
from irevla.learners.optim import Means, step_if_finite
from irevla.learners.sac_losses import (
    anchor_penalty,
    critic_loss,
    entropies,
    soft_value,
    squashed,
    td_target,
    temperature_loss,
)
from irevla.models.heads import ActionHead
from irevla.models.sac_actor import CriticEnsemble, SoftActor
from irevla.storage.checkpoint import load_optimizer, optimizer_tensors
from irevla.tasks import draw_seed
from irevla.types import Features


class SAC:
    """An action head, trained in place, with its critics, and how they learn from transitions.

    The head as it is now, the SFT policy's, is kept as `reference`: what the actor is anchored to.
    Its token learner reads the latents for all critics, so that a step computes h' once. New
    critics, and the motions and critics of an update, are drawn from (`seed`, update).
    """

    def __init__(self, head: ActionHead, config: SACConfig, *, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.updates = 0  # updates so far, each of `config.utd` critic steps
        self.moved = False  # whether any gradient of the actor was not exactly zero
        self.reference = copy.deepcopy(head).requires_grad_(False)
        with seeded(draw_seed(seed, "critics")):
            self.actor = SoftActor(head, discrete_gripper=config.gripper, std=config.std)
            self.critic = CriticEnsemble(
                critics=config.critics,
                width=head.width,
                motion=self.actor.motion,
                hidden=head.hidden,
                choices=self.actor.choices,
            )
        self.actor.requires_grad_(True)
        device = self.actor.log_std_head.weight.device
        self.critic.to(device)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.full((2,), math.log(config.alpha), device=device))
        wanted = [
            config.entropy * self.actor.motion,
            config.gripper_entropy * math.log(self.actor.choices),
        ]
        self.wanted = torch.tensor(wanted, device=device)  # entropies of motion and gripper, nats
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

    def update(self, batches: Sequence[Transitions]) -> dict[str, float]:
        """Take one step of the critics on each batch, then one of the actor and the temperatures.

        In the warm-up, the first `config.warmup` updates, the critics learn alone. Steps with a
        non-finite gradient are skipped and counted. Returns means over the steps, and counts.
        """
        self._generator = torch.Generator().manual_seed(draw_seed(self.seed, "sac", self.updates))
        means = Means()
        for batch in batches:
            last = batch.to(self.log_alpha.device)
            means.add(self._critic_step(last))
        if self.updates >= self.config.warmup:
            means.add(self._actor_step(last))
        self.updates += 1
        metrics = means.take()
        self.moved |= metrics.get("actor_grad_norm", 0.0) != 0
        return {"skipped": 0.0, **metrics, **self._temperatures()}

    def _critic_step(self, batch: Transitions) -> Metrics:
        """Take one gradient step of the critics, after which their slow copy follows."""
        motion, gripper = self.actor.split(batch.actions)
        q = self.critic(self._read(batch.features), motion)
        targets = self._targets(batch)
        loss = critic_loss(q, gripper=gripper, targets=targets)
        loss.backward()  # type: ignore[no-untyped-call]
        done = self._descend("critic")
        if "skipped" in done:
            return done
        self._follow()
        return {"critic_loss": loss.detach(), "target": targets.mean(), **done}

    def _actor_step(self, batch: Transitions) -> Metrics:
        """Take one gradient step of the actor and the temperatures."""
        u, motion, log_prob, gripper = self._draw(batch.features)
        q = self.critic(self._read(batch.features), motion).mean(0)
        value = soft_value(
            q, gripper=gripper, log_prob=log_prob, alpha=self.log_alpha.detach().exp()
        ).mean()
        anchor = anchor_penalty(torch.tanh(u), reference=self.reference(batch.features))
        entropy = entropies(gripper=gripper, log_prob=log_prob).detach()
        loss = self.config.anchor * anchor - value
        loss = loss + temperature_loss(self.log_alpha, entropies=entropy, targets=self.wanted)
        # Not into the critics: half of the work, and their gradients would stay.
        loss.backward(inputs=[*self.groups["actor"], self.log_alpha])  # type: ignore[no-untyped-call]
        done = self._descend("actor", "temperature")
        if "skipped" in done:
            return done
        return {
            "value": value.detach(),
            "anchor": anchor.detach(),
            "entropy": entropy[0],
            "gripper_entropy": entropy[1],
            **done,
        }

    @torch.no_grad()
    def _targets(self, batch: Transitions) -> Float[Tensor, " B"]:
        """Return y, with the minimum over a few critics of the slow copy.

        A truncated step bootstraps, a terminated one never does.
        """
        _, motion, log_prob, gripper = self._draw(batch.next_features)
        members = torch.randperm(self.config.critics, generator=self._generator)[
            : self.config.subset
        ]
        q = self.target(
            self._read(batch.next_features), motion, members=members.to(motion.device)
        ).amin(0)
        # Entropy is no reward here: values are of the task alone.
        values = soft_value(
            q, gripper=gripper, log_prob=log_prob, alpha=torch.zeros_like(self.log_alpha)
        )
        return td_target(
            batch.rewards,
            terminated=batch.terminated,
            next_values=values,
            gamma=self.config.gamma,
        )

    def _draw(
        self, features: Features
    ) -> tuple[
        Float[Tensor, "B A"], Float[Tensor, "B C"], Float[Tensor, " B"], Float[Tensor, "B K"]
    ]:
        """Return u, a motion, its log-density, and log-probabilities of the gripper's choices."""
        u, log_std = self.actor(features)
        noise = torch.randn(log_std.shape, generator=self._generator).to(u.device)
        motion, log_prob = squashed(u[:, : self.actor.motion], log_std=log_std, noise=noise)
        return u, motion, log_prob, self.actor.gripper_log_probs(u)

    @torch.no_grad()
    def _read(self, features: Features) -> Float[Tensor, "B d"]:
        """Return h' of the SFT policy, which all critics share."""
        h: Tensor = self.reference.token_learner(features)
        return h

    def _descend(self, *names: str) -> Metrics:
        """Take one gradient step of some groups; the others have no gradients."""
        groups = {name: self.groups[name] for name in names}
        return step_if_finite(self.optimizer, groups, limit=self.config.grad_clip)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the slow copy: target <- target + tau (critic - target)."""
        for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, self.config.tau)

    def _temperatures(self) -> dict[str, float]:
        motion, gripper = self.log_alpha.detach().exp().tolist()
        return {"alpha": motion, "gripper_alpha": gripper}

    def state(self) -> dict[str, Any]:
        """Return all that learning goes on from beside the policy's files and the buffers, as
        files."""
        log_std = self.actor.log_std_head.state_dict()
        return {
            "critic.safetensors": dict(self.critic.state_dict()),
            "target.safetensors": dict(self.target.state_dict()),
            "reference.safetensors": dict(self.reference.state_dict()),
            "exploration.safetensors": {**log_std, "log_alpha": self.log_alpha.detach()},
            "optimizer.safetensors": optimizer_tensors(self.optimizer),
            "learner.json": {"updates": self.updates, "moved": self.moved},
        }

    def load_state(self, files: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, bit for bit, once the policy has its files."""
        self.critic.load_state_dict(files["critic.safetensors"])
        self.target.load_state_dict(files["target.safetensors"])
        self.reference.load_state_dict(files["reference.safetensors"])
        exploration = dict(files["exploration.safetensors"])
        self.log_alpha.data.copy_(exploration.pop("log_alpha"))
        self.actor.log_std_head.load_state_dict(exploration)
        load_optimizer(self.optimizer, files["optimizer.safetensors"])
        self.updates = files["learner.json"]["updates"]
        self.moved = files["learner.json"].get("moved", True)  # not noted before: no complaint
