"""Stage 1 on a real arm: soft actor-critic on latents, with demonstrations (section V-D).

It never sees a picture, a prompt or a robot. As in RLPD (Ball et al. 2023): half of every batch is
demonstrated, and the target is the minimum of a few critics of an ensemble with layer norm.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from irevla.config import SACConfig
from irevla.data.buffers import Transitions
from irevla.data.replay import LatentReplay, sample_both
from irevla.learners.losses import Metrics
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
from irevla.models.soft import CriticEnsemble, SoftActor
from irevla.runs.checkpoint import load_optimizer, optimizer_tensors
from irevla.types import Features


class SAC:
    """An action head, trained in place, with its critics, and how they learn from transitions.

    The head as it is now, the SFT policy's, is kept as `reference`: what the actor is anchored to.
    Its token learner reads the latents for all critics, so that a step computes h' once.
    `generator` (on the CPU) decides which transitions, critics and motions are drawn.
    """

    def __init__(self, head: ActionHead, config: SACConfig, *, generator: torch.Generator) -> None:
        self.config, self.generator = config, generator
        self.reference = copy.deepcopy(head).requires_grad_(False)
        self.actor = SoftActor(head, gripper=config.gripper, std=config.std).requires_grad_(True)
        device = self.actor.spread.weight.device
        self.critic = CriticEnsemble(
            critics=config.critics,
            width=head.width,
            motion=self.actor.motion,
            hidden=head.hidden,
            choices=self.actor.choices,
        ).to(device)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.full((2,), math.log(config.alpha), device=device))
        self.wanted = torch.tensor(
            [
                config.entropy * self.actor.motion,
                config.gripper_entropy * math.log(self.actor.choices),
            ],
            device=device,
        )
        self.sides = {
            "actor": list(self.actor.parameters()),
            "temperature": [self.log_alpha],
            "critic": list(self.critic.parameters()),
        }
        rates = {"actor": config.lr, "temperature": config.lr, "critic": config.critic_lr}
        self.optimizer = torch.optim.Adam(
            [{"params": side, "lr": rates[name]} for name, side in self.sides.items()],
            fused=device.type == "cpu" or None,  # all of these small tensors in one call
        )

    def update(
        self, demonstrations: LatentReplay, online: LatentReplay, *, warmup: bool
    ) -> dict[str, float]:
        """`utd` steps of the critics, then one of the actor, but for the warm-up, and of the
        temperatures.

        Steps with a non-finite gradient are skipped and counted. Returns means over the steps, and
        counts.
        """
        history: dict[str, list[Tensor]] = defaultdict(list)
        for _ in range(self.config.utd):
            batch = sample_both(demonstrations, online, self.config.batch, self.generator).to(
                self.log_alpha.device
            )
            _note(history, self._critic_step(batch))
        if not warmup:
            _note(history, self._actor_step(batch))
        skipped = len(history.pop("skipped", []))
        means = {name: torch.stack(values).mean().item() for name, values in history.items()}
        return {**means, **self._temperatures(), "skipped": float(skipped)}

    def _critic_step(self, batch: Transitions) -> Metrics:
        """One gradient step of the critics, after which their slow copy follows."""
        motion, gripper = self.actor.split(batch.actions)
        q = self.critic(self._read(batch.features), motion)
        targets = self._targets(batch)
        loss = critic_loss(q, gripper=gripper, targets=targets)
        loss.backward()  # type: ignore[no-untyped-call]
        norms = self._descend("critic")
        if not norms:
            return {"skipped": torch.ones(())}
        self._follow()
        return {"critic_loss": loss.detach(), "target": targets.mean(), **norms}

    def _actor_step(self, batch: Transitions) -> Metrics:
        """One gradient step of the actor and the temperatures."""
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
        loss.backward(inputs=[*self.sides["actor"], self.log_alpha])  # type: ignore[no-untyped-call]
        norms = self._descend("actor", "temperature")
        metrics = {"value": value.detach(), "anchor": anchor.detach(), "entropy": entropy[0]}
        return (
            {**metrics, "gripper_entropy": entropy[1], **norms}
            if norms
            else {"skipped": torch.ones(())}
        )

    @torch.no_grad()
    def _targets(self, batch: Transitions) -> Float[Tensor, " B"]:
        """y, with the minimum over a few critics of the slow copy. A truncated step bootstraps, a
        terminated never."""
        _, motion, log_prob, gripper = self._draw(batch.next_features)
        members = torch.randperm(self.config.critics, generator=self.generator)[
            : self.config.subset
        ]
        q = self.target(
            self._read(batch.next_features), motion, members=members.to(motion.device)
        ).amin(0)
        alpha = self.log_alpha.exp() * self.config.backup_entropy
        return td_target(
            batch.rewards,
            terminated=batch.terminated,
            next_values=soft_value(q, gripper=gripper, log_prob=log_prob, alpha=alpha),
            gamma=self.config.gamma,
        )

    def _draw(
        self, features: Features
    ) -> tuple[
        Float[Tensor, "B A"], Float[Tensor, "B C"], Float[Tensor, " B"], Float[Tensor, "B K"]
    ]:
        """u, a motion with its log-density, and the log-probabilities of the gripper's choices."""
        u, log_std = self.actor(features)
        noise = torch.randn(log_std.shape, generator=self.generator).to(u.device)
        motion, log_prob = squashed(u[:, : self.actor.motion], log_std=log_std, noise=noise)
        return u, motion, log_prob, self.actor.grip(u)

    @torch.no_grad()
    def _read(self, features: Features) -> Float[Tensor, "B d"]:
        """h' of the SFT policy, which all critics share."""
        h: Tensor = self.reference.token_learner(features)
        return h

    def _descend(self, *names: str) -> Metrics:
        """Clip the gradients of some sides and step; returns their norms, or nothing where one is
        not finite: no step.

        Parameters without a gradient, those of the other sides, are not touched by Adam.
        """
        limit = self.config.grad_clip
        norms = {
            f"{name}_grad_norm": nn.utils.clip_grad_norm_(self.sides[name], limit) for name in names
        }
        finite = bool(torch.stack(list(norms.values())).isfinite().all())
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norms if finite else {}

    @torch.no_grad()
    def _follow(self) -> None:
        """The slow copy: target <- target + tau (critic - target)."""
        for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, self.config.tau)

    def _temperatures(self) -> dict[str, float]:
        motion, gripper = self.log_alpha.detach().exp().tolist()
        return {"alpha": motion, "gripper_alpha": gripper}

    def state(self) -> dict[str, dict[str, Tensor]]:
        """All that learning goes on from beside the policy's own files and the buffers, as files of
        a checkpoint."""
        return {
            "critic.safetensors": dict(self.critic.state_dict()),
            "target.safetensors": dict(self.target.state_dict()),
            "reference.safetensors": dict(self.reference.state_dict()),
            "exploration.safetensors": {
                **self.actor.spread.state_dict(),
                "log_alpha": self.log_alpha.detach(),
            },
            "optimizer.safetensors": optimizer_tensors(self.optimizer),
            "generator.safetensors": {"state": self.generator.get_state()},
        }

    def load_state(self, files: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, bit for bit, once the policy has its files. Other files
        are left to others."""
        for name, module in {
            "critic": self.critic,
            "target": self.target,
            "reference": self.reference,
        }.items():
            module.load_state_dict(files[f"{name}.safetensors"])
        exploration = dict(files["exploration.safetensors"])
        self.log_alpha.data.copy_(exploration.pop("log_alpha"))
        self.actor.spread.load_state_dict(exploration)
        load_optimizer(self.optimizer, files["optimizer.safetensors"])
        self.generator.set_state(files["generator.safetensors"]["state"])


def _note(history: dict[str, list[Tensor]], metrics: Metrics) -> None:
    for name, value in metrics.items():
        history[name].append(value)
