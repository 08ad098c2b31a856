"""Stage 2 of a task elsewhere while stage 1 explores the next task here (`compute.pipeline`).

Algorithm 1 waits: stage 1 of task i + 1 begins from what stage 2 of task i has learnt. Here it
begins from the newest weights that are at hand, and stage 2 of task i + 1 from those of stage 2 of
task i, with all of D_RL by then; the skill of stage 1 reaches it through D_RL. The journal says
which weights each stage began from.

    here         1: T_1   1: T_2 (from 1: T_1)   1: T_3 (from 2: T_1)   ...
    elsewhere             2: T_1 (from 1: T_1)   2: T_2 (from 2: T_1)   ...
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from irevla.data.episodes import EpisodeStore, ExpertDataset
from irevla.envs.suite import Suite
from irevla.models.policy import VLAPolicy
from irevla.runs.run import Run
from irevla.stages.elsewhere import Begun
from irevla.stages.supervised import begin_supervised, run_supervised
from irevla.storage.checkpoint import load
from irevla.tasks import Parts, Stage


@dataclass
class _UnderWay:
    """A stage 2 that is under way elsewhere."""

    stage: Stage
    weights: Stage  # whose policy it begins from
    episodes: int  # of D_RL as it began
    elsewhere: Begun | None  # None: it is done


class SecondStages:
    """Line 9 of each turn: at once, or with `compute.pipeline` beside stage 1 of the next."""

    def __init__(
        self, run: Run, parts: Parts, *, suite: Suite, expert: ExpertDataset, online: EpisodeStore
    ) -> None:
        self._run = run
        self._parts: Parts = parts
        self._online = online
        self._data: dict[str, Any] = {"suite": suite, "expert": expert, "online": online}
        self._under_way: _UnderWay | None = None
        self._engine = ExitStack()

    def __enter__(self) -> "SecondStages":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._engine.close()

    def learn(self, policy: VLAPolicy, stage: Stage, *, last: bool) -> Iterator[Stage]:
        """Learn in stage 2, or begin to. Yield each stage 2 that is done, while `policy` has its
        weights: in a pipeline the one before, and after the `last` one all."""
        if not self._run.config.compute.pipeline:
            run_supervised(self._run, policy, stage, self._parts, **self._data)
            yield stage
            return
        before = self._take(policy) if self._under_way else None
        self._begin(policy, stage, weights=before or stage.then("rl"), last=last)
        if before is not None:
            yield before
        if last:
            yield self._take(policy)

    def _begin(self, policy: VLAPolicy, stage: Stage, *, weights: Stage, last: bool) -> None:
        """Let others begin with `stage`, from the `weights` that the policy has."""
        journal = self._run.journal
        event = f"begun {stage.name}"
        known = journal.done(event)
        episodes = len(self._online) if known is None else int(known["episodes"])
        if known is None:
            both = {"weights": weights.name, "next_stage_1": "" if last else weights.name}
            journal.append(event, episodes=episodes, **both)
        elsewhere = None
        if journal.done(stage.name) is None:
            begun = begin_supervised(
                self._run, policy, stage, self._parts, episodes=episodes, **self._data
            )
            elsewhere = self._engine.enter_context(begun)
            self._load(policy, weights)
        self._under_way = _UnderWay(stage, weights, episodes, elsewhere)

    def _take(self, policy: VLAPolicy) -> Stage:
        """Wait for the stage that was begun, and let the policy have its weights; return it."""
        begun = self._under_way
        assert begun is not None
        if begun.elsewhere is not None:  # else it is done, and there to load
            self._load(policy, begun.weights)
        run_supervised(
            self._run,
            policy,
            begun.stage,
            self._parts,
            episodes=begun.episodes,
            begun=begun.elsewhere,
            **self._data,
        )
        self._engine.close()
        self._under_way = None
        return begun.stage

    def _load(self, policy: VLAPolicy, stage: Stage) -> None:
        """Let the policy have the weights that a stage ended with."""
        policy.load_files(load(self._run.checkpoints.root / stage.folder, as_saved=True))
