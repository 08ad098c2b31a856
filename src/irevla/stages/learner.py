"""SAC between its two buffers: which updates are pending, and how they are made, in turn with the
decisions. It meets no environment and no VLM."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from irevla.data.replay import LatentReplay, sample_both
from irevla.learners.optim import Means
from irevla.learners.sac import SAC
from irevla.tasks import draw_seed
from irevla.types import Features


@runtime_checkable
class OnlineLearner(Protocol):
    """How SAC learns while it acts: in turn (`SACLearner`), or in a process of its own
    (`AsyncLearner`)."""

    @property
    def updates(self) -> int:
        """Updates so far."""
        ...

    @property
    def moved(self) -> bool:
        """Whether any gradient of the actor was not exactly zero, as far as it is known here."""
        ...

    def act(
        self, features: Features, *, noise: Float[Tensor, "B nA"], chance: Float[Tensor, "B ..."]
    ) -> Float[Tensor, "B nA"]:
        """Return actions with exploration noise, as `SoftActor.act`."""
        ...

    def train_pending(self) -> dict[str, float]:
        """Learn from what has come to the online buffer; return the means of the updates'
        metrics."""
        ...

    def finish(self) -> None:
        """Make all updates that are still pending; then the policy has what was learnt."""
        ...

    def __enter__(self) -> "OnlineLearner": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class SACLearner:
    """SAC and its buffers, half of every batch from each (section V-D)."""

    def __init__(self, sac: SAC, *, demonstrations: LatentReplay, online: LatentReplay) -> None:
        self.sac = sac
        self._demonstrations = demonstrations
        self._online = online

    @property
    def updates(self) -> int:
        """Updates so far."""
        return self.sac.updates

    @property
    def moved(self) -> bool:
        """Whether any gradient of the actor was not exactly zero."""
        return self.sac.moved

    @property
    def pending_updates(self) -> int:
        """Updates due for the decisions in the buffer.

        The buffer may be ahead of the last checkpoint: after an interruption, more are pending.
        """
        steps = self.sac.actor.execute * len(self._online)
        return int(self.sac.config.updates_per_decision * steps) - self.sac.updates

    def update(self) -> dict[str, float]:
        """Make one update, on samples drawn from (seed, update)."""
        config = self.sac.config
        gamma = config.gamma**self.sac.actor.execute  # per chunk
        generator = torch.Generator()
        generator.manual_seed(draw_seed(self.sac.seed, "decisions", self.sac.updates))
        both = self._demonstrations, self._online
        return self.sac.update(
            [sample_both(*both, config.batch, generator, gamma=gamma) for _ in range(config.utd)]
        )

    def act(
        self, features: Features, *, noise: Float[Tensor, "B nA"], chance: Float[Tensor, "B ..."]
    ) -> Float[Tensor, "B nA"]:
        """Return actions with exploration noise, as `SoftActor.act`."""
        return self.sac.actor.act(features, noise=noise, chance=chance)

    def train_pending(self) -> dict[str, float]:
        """Make all pending updates; return the means of their metrics."""
        means = Means()
        while self.pending_updates > 0:
            means.add(self.update())
        return means.take()

    def finish(self) -> None:
        """Make all pending updates."""
        self.train_pending()

    def state(self) -> dict[str, Any]:
        """Return what SAC needs to go on, as files."""
        return self.sac.state()

    def load_state(self, files: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.sac.load_state(files)

    def __enter__(self) -> "SACLearner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass
