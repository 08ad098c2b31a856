"""SAC between its two buffers: which updates are pending, and how they are made while the policy
acts. It meets no environment and no VLM."""

import copy
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from irevla.data.read_replay import ReadReplay, sample_both
from irevla.data.replay import LatentReplay
from irevla.learners.optim import Means
from irevla.learners.sac import SAC
from irevla.tasks import draw_seed
from irevla.types import Features


@runtime_checkable
class OnlineLearner(Protocol):
    """How SAC learns while it acts: in step with it (`InStepLearner`), or in a process of its own
    (`AsyncLearner`)."""

    updates: int  # so far, as far as it is known here
    moved: bool  # whether any gradient of the actor was not exactly zero, likewise

    def act(
        self, features: Features, *, noise: Float[Tensor, "B nA"], chance: Float[Tensor, "B ..."]
    ) -> Float[Tensor, "B nA"]:
        """Return actions with exploration noise, as `SoftActor.act`."""
        ...

    def learn(self) -> dict[str, float]:
        """Let it learn from what has come to the buffers; return the means of the metrics of the
        updates that are known of since the last call."""
        ...

    def settle(self) -> dict[str, float]:
        """Before a pause: act on all that was learnt, where that is in step with acting; return
        what `learn` has not returned."""
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
        self.stores = demonstrations, online
        self._buffers = self._unread()

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
        """Updates due for the decisions that were taken up.

        The buffer may be ahead of the last checkpoint: after an interruption, more are pending.
        """
        steps = self.sac.actor.execute * len(self._buffers[1])
        return int(self.sac.config.updates_per_decision * steps) - self.sac.updates

    def take_up(self, demonstrations: int, online: int) -> None:
        """Learn from so many episodes of each buffer from now on."""
        for buffer, episodes in zip(self._buffers, (demonstrations, online), strict=True):
            buffer.take_up(episodes)

    def take_up_all(self) -> None:
        """Learn from all that is in the buffers from now on."""
        demonstrations, online = (len(store.episodes) for store in self.stores)
        self.take_up(demonstrations, online)

    def update(self) -> dict[str, float]:
        """Make one update, on samples drawn from (seed, update)."""
        config = self.sac.config
        generator = torch.Generator()
        generator.manual_seed(draw_seed(self.sac.seed, "decisions", self.sac.updates))
        samples = [sample_both(*self._buffers, config.batch, generator) for _ in range(config.utd)]
        return self.sac.update([each.decisions() for each in samples], samples[-1].features())

    def _unread(self) -> tuple[ReadReplay, ReadReplay]:
        """Return the buffers as critics see them, of which nothing was taken up."""
        shown, online = self.stores
        gamma = self.sac.config.gamma**self.sac.actor.execute  # per chunk
        read = self.sac.read
        return ReadReplay(shown, read, gamma=gamma), ReadReplay(online, read, gamma=gamma)

    def state(self) -> dict[str, Any]:
        """Return what SAC needs to go on, as files."""
        return self.sac.state()

    def load_state(self, files: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.sac.load_state(files)
        self._buffers = self._unread()  # by the head that the state has


class InStepLearner:
    """SAC in a thread beside acting, and in step with it: what it has learnt from an episode is
    acted upon once `lag` more have ended; with a `lag` of 0 acting waits.

    So a second core is of use, and the same run gives the same bits.
    """

    def __init__(self, learner: SACLearner, *, lag: int) -> None:
        self.updates = learner.updates
        self.moved = learner.moved
        self._learner = learner
        self._lag = lag
        self._actor = copy.deepcopy(learner.sac.actor).requires_grad_(False)
        # In a new thread OpenMP forgets how many threads an operation may take.
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        self._begun: deque[Future[_Learnt]] = deque()
        self._leaving = False

    def act(
        self, features: Features, *, noise: Float[Tensor, "B nA"], chance: Float[Tensor, "B ..."]
    ) -> Float[Tensor, "B nA"]:
        """Return actions with exploration noise, as `SoftActor.act`."""
        return self._actor.act(features, noise=noise, chance=chance)

    def learn(self) -> dict[str, float]:
        """Begin to learn from what has come to the buffers. Act on what was learnt until `lag`
        calls before, which is waited for; return the means of its metrics.

        Raises at once what has been raised in the thread.
        """
        for begun in self._begun:
            if begun.done():
                begun.result()
        episodes = [len(store.episodes) for store in self._learner.stores]
        self._begun.append(self._thread.submit(self._train_pending, *episodes))
        return self._take(self._lag)

    def settle(self) -> dict[str, float]:
        """Wait for all that was begun, and act on it; return the means of its metrics."""
        return self._take(0)

    def finish(self) -> None:
        """Make all pending updates."""
        self.learn()
        self.settle()

    def _take(self, left: int) -> dict[str, float]:
        """Take what was learnt, until so much of what was begun is left; act on the last of it."""
        means = Means()
        while len(self._begun) > left:
            learnt = self._begun.popleft().result()
            means.add(learnt.metrics)
            self._actor.load_state_dict(learnt.actor)
            self.updates, self.moved = learnt.updates, learnt.moved
        return means.take()

    def _train_pending(self, demonstrations: int, online: int) -> "_Learnt":
        learner = self._learner
        learner.take_up(demonstrations, online)
        means = Means()
        while learner.pending_updates > 0 and not self._leaving:
            means.add(learner.update())
        actor = {name: value.clone() for name, value in learner.sac.actor.state_dict().items()}
        return _Learnt(means.take(), actor, learner.updates, learner.moved)

    def __enter__(self) -> "InStepLearner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leaving = True
        self._thread.shutdown()


@dataclass(frozen=True)
class _Learnt:
    """What the updates of one episode came to."""

    metrics: dict[str, float]
    actor: dict[str, Tensor]
    updates: int
    moved: bool
