"""Supervised learning, stages 0 and 2 of Algorithm 1: mean squared error on D_e (equation 2), or on
D_e and D_RL (equation 4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from irevla.compute.device import seeded
from irevla.config import SFTConfig
from irevla.data.augment import augment
from irevla.data.mixture import Batch
from irevla.learners.optim import learning_rate, step_if_finite
from irevla.storage.checkpoint import load_optimizer, optimizer_tensors
from irevla.tasks import Parts, draw_seed
from irevla.types import Policy


class SFT:
    """A policy, and how `parts` of it learn to imitate.

    Augmentation and dropout of a step are drawn from (`seed`, step): a learner that was saved and
    loaded ends with the same bits as one that was not. `words` are what `config.augment.words` puts
    in the place of others.
    """

    def __init__(
        self,
        policy: Policy,
        config: SFTConfig,
        *,
        parts: Parts,
        seed: int,
        words: Sequence[str] = (),
    ) -> None:
        assert words or not config.augment.words, "no words to put in"
        self.policy = policy
        self.config = config
        self.seed = seed
        self.words = words
        self.updates = 0  # gradient steps so far
        self.skipped = 0  # of these, steps that did nothing: their gradient was not finite
        self.moved = False  # whether any gradient was not exactly zero
        self.parameters = policy.trainable(parts)
        self.device = self.parameters[0].device
        fused = self.device.type == "cpu"  # one pass over the weights; on a GPU no gain
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused or None
        )

    def update(self, batch: Batch) -> dict[str, float]:
        """Take one gradient step of J(theta, phi), per action dimension."""
        lr = learning_rate(self.config, self.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        generator = torch.Generator().manual_seed(draw_seed(self.seed, "augment", self.updates))
        changed = augment(
            batch.observation.to(self.device),  # large images take long on a CPU
            self.config.augment,
            words=self.words,
            generator=generator,
        )
        with seeded(draw_seed(self.seed, "dropout", self.updates)):
            self.policy.train()
            loss = self._loss(Batch(changed, batch.actions))
            # J = E[|pi(o, l) - a|^2] / d_a
            loss.backward()  # type: ignore[no-untyped-call]
        done = step_if_finite(self.optimizer, {"": self.parameters}, limit=self.config.grad_clip)
        self.updates += 1
        self.skipped += "skipped" in done
        self.moved |= bool(done.get("grad_norm", 0.0))
        return {
            "loss": loss.item(),
            "lr": lr,
            **{name: value.item() for name, value in done.items()},
        }

    @torch.no_grad()
    def validate(
        self, batches: Mapping[str, Sequence[Batch]], weights: Mapping[str, float]
    ) -> dict[str, float]:
        """Return the mean squared error on held-out samples: of each store, and weighted as batches
        are.

        Nothing where nothing was held out.
        """
        self.policy.train(False)
        losses = {}
        for name, parts in batches.items():
            sums = [self._loss(part).double() * len(part.actions) for part in parts]
            samples = sum(len(part.actions) for part in parts)
            losses[f"validation_{name}"] = float(sum(sums)) / samples
        if not losses:
            return {}
        total = sum(weights[name] for name in batches)
        weighted = sum(weights[name] * losses[f"validation_{name}"] for name in batches)
        return {"validation": weighted / total if total else weighted, **losses}

    def _loss(self, batch: Batch) -> torch.Tensor:
        features = self.policy.encode(batch.observation)
        prediction = self.policy.mean(features).float()
        return nn.functional.mse_loss(prediction, batch.actions.to(self.device))

    def state(self) -> dict[str, Any]:
        """Return all that learning goes on from beside the policy's own files, as files."""
        return {
            "optimizer.safetensors": optimizer_tensors(self.optimizer),
            "learner.json": {
                "updates": self.updates,
                "skipped": self.skipped,
                "moved": self.moved,
            },
        }

    def load_state(self, files: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, bit for bit, once the policy has its files."""
        load_optimizer(self.optimizer, files["optimizer.safetensors"])
        self.updates = files["learner.json"]["updates"]
        self.skipped = files["learner.json"]["skipped"]
        self.moved = files["learner.json"].get("moved", True)  # not noted before: no complaint
