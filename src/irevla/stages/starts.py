"""Which starts of a task are practised: those whose outcome is least certain.

A policy solves some starts every time and others never, and learns from those between: where a
share p of such episodes succeeds, p (1 - p) says how much (Tzannetos et al. 2023, Rutherford et al.
2024). Of some starts that are looked at, before anything moves, the most promising one is played;
what p may be, the outcomes of those tell that looked alike. Where a person puts things, as on a
real arm, there is nothing to choose.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from irevla.compute.device import threads
from irevla.envs.suite import Authorization, Suite
from irevla.envs.vector import Job, VectorEnv
from irevla.models.policy import VLAPolicy
from irevla.rollout.actors import MeanActor
from irevla.rollout.episodes import EpisodeRecorder
from irevla.rollout.serve import Server
from irevla.runs.run import Run
from irevla.stages.keeping import Kept
from irevla.tasks import Purpose, Stage, first_seed
from irevla.types import Features

BEFORE = 50  # episodes that are played as they come, before anything can be told
LATELY = 150  # that tell: the policy of earlier ones was another
ALIKE = 6  # of these, those whose start looks most like one
UNCHOSEN = 4  # every so many-th start is played as it comes, wherever it may be
LOST = 0.5  # of those that are looked at: may fail for good, since others are played


@dataclass(frozen=True)
class Starts:
    """The starts of a stage's episodes. `read` gives h' of latents."""

    run: Run
    policy: VLAPolicy
    stage: Stage
    suite: Suite
    kept: Kept
    read: Callable[[Features], Float[Tensor, "B n"]]

    def next_leg(self) -> list[int]:
        """Return the seeds of the episodes up to the next checkpoint."""
        config = self.run.config.sac
        first = first_seed(Purpose.RL, self.run.config.seed, round=self.stage.round)
        first = max([first, *(episode["seed"] + 1 for episode in self.kept.practised)])
        groups = first + np.arange(config.checkpoint_every * config.starts)
        groups = groups.reshape(-1, config.starts)
        chosen: np.ndarray = groups[:, 0].copy()
        if config.starts > 1 and len(self.kept.practised) >= BEFORE:
            asked = np.arange(len(groups)) % UNCHOSEN != 0
            looks = self._looks(groups[asked].ravel().tolist())
            in_groups = looks.view(-1, config.starts, looks.shape[1])
            best = least_certain(in_groups, *self._known())
            chosen[asked] = groups[asked][np.arange(len(best)), best]
        seeds: list[int] = chosen.tolist()
        return seeds

    def _known(self) -> tuple[Float[Tensor, "E n"], Float[Tensor, " E"]]:
        """Return h' of what was seen first in the last episodes, and which have succeeded."""
        episodes = self.kept.practice.episodes
        lately = self.kept.practised[-LATELY:]
        where = range(len(episodes) - len(lately), len(episodes))  # the last ones of the buffer
        success = [float(episode["success"]) for episode in lately]
        return self.read(self.kept.practice.starts(where)).cpu(), torch.tensor(success)

    def _looks(self, seeds: Sequence[int]) -> Float[Tensor, "B n"]:
        """Return h' of what is seen first in the episodes of these seeds; NaN where the environment
        fails again and again."""
        env = self.run.config.env.for_training()
        env = replace(env, horizon=1, lost_share=max(LOST, env.lost_share))
        jobs = iter([Job(self.stage.task, seed) for seed in seeds])
        who = Authorization(self.policy.hash())
        seen: dict[int, Tensor] = {}
        with threads(1), VectorEnv(self.suite, env, jobs, authorization=who) as vec:
            recorder = EpisodeRecorder(vec, latents=True)
            for outcome in Server(vec, MeanActor(self.policy, stored=True), recorder).serve():
                assert outcome.latents is not None
                seen[outcome.job.seed] = self.read(outcome.latents.features[:1]).cpu()[0]
        lost = torch.full_like(next(iter(seen.values())), torch.nan)
        return torch.stack([seen.get(seed, lost) for seed in seeds])


def least_certain(
    looks: Float[Tensor, "G k n"], known: Float[Tensor, "E n"], success: Float[Tensor, " E"]
) -> Int64[np.ndarray, " G"]:
    """Return which of the `k` looks in each group is of a start whose outcome is least certain, by
    the outcomes of the known ones that are nearest. One that is NaN comes last."""
    alike = torch.cdist(looks, known).topk(min(ALIKE, len(known)), largest=False).indices
    share = success[alike].mean(-1)
    promise = share * (1 - share)
    promise[looks.isnan().any(-1)] = -1.0
    best: Int64[np.ndarray, " G"] = promise.argmax(1).numpy()
    return best
