"""SAC between its two buffers: what it owes them, and how far it has come. It meets no environment
and no VLM."""

from collections import defaultdict
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from irevla.data.replay import LatentReplay
from irevla.learners.sac import SAC
from irevla.runs.stage import Place, RLProgress, Saved
from irevla.types import Features


@runtime_checkable
class Learning(Protocol):
    """How stage 1 learns: in turn with the decisions (`Learner`), or beside them (`Beside`)."""

    def act(self, features: Features) -> Float[Tensor, "B A"]:
        """Actions with SAC's exploration noise."""
        ...

    def catch_up(self) -> dict[str, float]:
        """Learn from what has come to the online buffer. Returns metrics of the updates since the
        last call."""
        ...

    def finish(self) -> None:
        """Do all that is still owed; then the policy has what was learnt."""
        ...

    def __enter__(self) -> "Learning": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Learner:
    """SAC, its buffers, and its progress in `stage`; the policy, whose head SAC trains in place, is
    for checkpoints."""

    def __init__(
        self,
        place: Place,
        policy: Saved,
        stage: str,
        *,
        sac: SAC,
        demonstrations: LatentReplay,
        online: LatentReplay,
    ) -> None:
        self._place, self._policy, self.stage = place, policy, stage
        self._demonstrations, self._online = demonstrations, online
        self.sac, self.progress = sac, RLProgress(sac.config.window)

    def resume(self) -> bool:
        """Go on from the newest sound checkpoint; whether there is one."""
        files = self.progress.resume(self._place, self._policy, self.stage)
        if files is not None:
            self.sac.load_state(files)
        self.count()
        return files is not None

    def save(self) -> None:
        """A checkpoint to go on from."""
        self.progress.save(self._place, self._policy, self.stage, learner=self.sac.state())

    def count(self) -> None:
        """Decisions and recent successes, of the online buffer."""
        self._online.refresh()
        recent = self._online.episodes[-self.progress.window :]
        self.progress.decisions, self.progress.recent = (
            len(self._online),
            [episode["success"] for episode in recent],
        )

    @property
    def owed(self) -> int:
        """Updates for the decisions counted so far. The buffer may be ahead of the last checkpoint:
        after an interruption, more is owed."""
        return (
            int(self.sac.config.updates_per_decision * self.progress.decisions)
            - self.progress.updates
        )

    def update(self) -> Mapping[str, float]:
        """One update, and a checkpoint where it is time."""
        config = self.sac.config
        warmup = self.progress.updates < config.warmup
        metrics = self.sac.update(self._demonstrations, self._online, warmup=warmup)
        self.progress.updates += 1
        if self.progress.updates % config.checkpoint_every == 0:
            self.save()
        return metrics

    # --- in turn with the decisions

    def act(self, features: Features) -> Float[Tensor, "B A"]:
        """Actions with exploration noise."""
        return self.sac.actor.act(features, generator=self.sac.generator)

    def catch_up(self) -> dict[str, float]:
        """All updates that are owed."""
        self.count()
        history: list[Mapping[str, float]] = []
        while self.owed > 0:
            history.append(self.update())
        return means(history)

    def finish(self) -> None:
        """Nothing is left to do."""
        self.catch_up()

    def __enter__(self) -> "Learner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


def means(history: list[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the updates that have it."""
    columns: dict[str, list[float]] = defaultdict(list)
    for metrics in history:
        for name, value in metrics.items():
            columns[name].append(value)
    return {name: float(np.mean(values)) for name, values in columns.items()}
