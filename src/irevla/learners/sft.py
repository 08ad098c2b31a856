"""Supervised learning, stages 0 and 2 of Algorithm 1: mean squared error on D_e (equation 2), or on
D_e and D_RL (equation 4)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from irevla.compute.device import seeded
from irevla.compute.ranks import ALONE, Part, Ranks
from irevla.config import SFTConfig
from irevla.data.augment import augment
from irevla.data.mixture import Batch
from irevla.learners.optim import learning_rate, step_if_finite
from irevla.storage.checkpoint import load_optimizer, optimizer_tensors
from irevla.tasks import Parts, draw_seed
from irevla.types import Observation, Policy


class _Predictor(nn.Module):
    """From what a policy sees to its mean actions (`B kA`), as one module: what gradients are
    shared of."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Observation) -> Tensor:
        return self.policy.mean(self.policy.encode(observation))


class SFT:
    """A policy, and how `parts` of it learn to imitate.

    Augmentation and dropout of a step are drawn from (`seed`, step): a learner that was saved and
    loaded ends with the same bits as one that was not. `words` are what `config.augment.words` puts
    in the place of others. Of each batch every one of the `ranks` has its part; all end a step with
    the same weights, those that one process alone would have but for the rounding of sums.
    """

    def __init__(
        self,
        policy: Policy,
        config: SFTConfig,
        *,
        parts: Parts,
        seed: int,
        words: Sequence[str] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        assert words or not config.augment.words, "no words to put in"
        self.policy = policy
        self.config = config
        self.seed = seed
        self.words = words
        self.ranks = ranks
        self.updates = 0  # gradient steps so far
        self.skipped = 0  # of these, steps that did nothing: their gradient was not finite
        self.moved = False  # whether any gradient was not exactly zero
        self.parameters = policy.trainable(parts)
        self.device = self.parameters[0].device
        fused = self.device.type == "cpu"  # one pass over the weights; on a GPU no gain
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused or None
        )
        self._predict: Callable[[Observation], Tensor] = self._mean
        if ranks.size > 1:
            self._predict = ranks.share_gradients(_Predictor(policy))

    def update(self, batch: Batch) -> dict[str, float]:
        """Take one gradient step of J(theta, phi), per action dimension and step of a chunk.

        `batch` is this rank's part of it. The metrics are of the whole batch.
        """
        part = self._part(batch)
        lr = learning_rate(self.config, self.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        generator = torch.Generator().manual_seed(draw_seed(self.seed, "augment", self.updates))
        changed = augment(
            batch.observation.to(self.device),  # large images take long on a CPU
            self.config.augment,
            words=self.words,
            generator=generator,
            part=part,
        )
        with seeded(draw_seed(self.seed, "dropout", self.updates)):
            self.policy.train()
            loss = self._loss(batch._replace(observation=changed), self._predict)
            # J = E[|pi(o, l) - a|^2] / d_a; the mean over ranks of `size * share` times their means
            weighted = loss * (self.ranks.size * part.share)
            weighted.backward()  # type: ignore[no-untyped-call]
            loss = self.ranks.add(loss.detach() * part.share)
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
            mine = parts[self.ranks.rank :: self.ranks.size]
            sums = [self._loss(part, self._mean).double() * len(part.actions) for part in mine]
            total = sum(sums, torch.zeros((), dtype=torch.float64, device=self.device))
            samples = sum(len(part.actions) for part in parts)
            losses[f"validation_{name}"] = float(self.ranks.add(total)) / samples
        if not losses:
            return {}
        weight = sum(weights[name] for name in batches)
        weighted = sum(weights[name] * losses[f"validation_{name}"] for name in batches)
        return {"validation": weighted / weight if weight else weighted, **losses}

    def _part(self, batch: Batch) -> Part:
        """Return which samples of a step's batch are in `batch`."""
        if self.ranks.size == 1:
            return self.ranks.part(len(batch.actions))
        part = self.ranks.part(self.config.batch)
        assert len(part) == len(batch.actions), "another rank's part"
        return part

    def _loss(self, batch: Batch, predict: Callable[[Observation], Tensor]) -> Tensor:
        prediction = predict(batch.observation).float()
        shown = batch.shown.to(self.device)
        # What nobody has shown is right as it is: the mean is over as many numbers in every batch,
        # so that the ranks' parts add up.
        target = torch.where(shown, batch.actions.to(self.device), prediction.detach())
        return nn.functional.mse_loss(prediction, target)

    def _mean(self, observation: Observation) -> Tensor:
        return self.policy.mean(self.policy.encode(observation))

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
