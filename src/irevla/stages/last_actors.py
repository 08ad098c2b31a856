"""Which of stage 1's last actors goes on.

What the very last update leaves is in part luck: within a hundred episodes an actor that solves 92
of 100 may become one that solves 77 (docs/log.md, 28 November 2026). So the last few, each as a leg
of practice ended with it, play the same episodes without noise, and the best of them goes on.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from irevla.compute.device import threads
from irevla.envs.suite import Authorization, Suite
from irevla.envs.vector import Job
from irevla.models.heads import ActionHead
from irevla.models.policy import VLAPolicy
from irevla.progress import bar
from irevla.rollout.actors import MeanActor
from irevla.rollout.episodes import EpisodeRecorder, in_order
from irevla.rollout.serve import Server
from irevla.runs.run import Run
from irevla.stages.keeping import open_environments
from irevla.tasks import Purpose, Stage, first_seed

FILE = "actors.safetensors"


class LastActors:
    """The heads that the last legs ended with, `most` of them at most, oldest first."""

    def __init__(self, most: int) -> None:
        self.heads: deque[dict[str, Tensor]] = deque(maxlen=most)

    def add(self, head: ActionHead) -> None:
        """Keep a head as it is now."""
        self.heads.append(copied(head))

    def files(self) -> dict[str, Any]:
        """Return them as a file of a checkpoint."""
        numbered = enumerate(self.heads)
        named = {f"{at}.{name}": value for at, head in numbered for name, value in head.items()}
        return {FILE: named} if named else {}

    def load_files(self, files: Mapping[str, Any]) -> None:
        """Take them up again, where `files` have them."""
        heads: dict[int, dict[str, Tensor]] = {}
        for key, value in files.get(FILE, {}).items():
            at, _, name = key.partition(".")
            heads.setdefault(int(at), {})[name] = value
        self.heads.extend(heads[at] for at in sorted(heads))


def copied(head: ActionHead) -> dict[str, Tensor]:
    """Return its weights as they are now."""
    return {name: value.clone() for name, value in head.state_dict().items()}


def choose_actor(
    run: Run, policy: VLAPolicy, stage: Stage, last: LastActors, *, suite: Suite
) -> dict[str, Any]:
    """Give the policy, of its own head and those of `last`, the one that succeeds most often in
    `sac.trial` episodes, of equals the latest.

    Returns what the journal says of it, nothing where there is no choice.
    """
    if not last.heads:
        return {}
    heads = [*last.heads, copied(policy.action_head)]
    trial = run.config.sac.trial
    first = first_seed(Purpose.TRIAL, run.config.seed, round=stage.round)
    jobs = [Job(stage.task, seed) for seed in range(first, first + trial)]
    solved, tried, decisions = [], 0, 0
    with (
        threads(1),
        bar(f"Trial of {stage.target}'s last actors", len(heads) * trial) as advance,
        open_environments(run, suite, Authorization(policy.hash())) as vec,
    ):
        server = Server(vec, MeanActor(policy, stored=True), EpisodeRecorder(vec))
        for head in heads:
            policy.action_head.load_state_dict(head)
            solved.append(0)
            for outcome in in_order(server.play(iter(jobs)), jobs, vec.given_up):
                tried += 1
                decisions += outcome.length
                solved[-1] += outcome.success
                advance(tried, f"successes {', '.join(map(str, solved))} of {trial}")
    best = max(range(len(heads)), key=lambda at: (solved[at], at))
    policy.action_head.load_state_dict(heads[best])
    return {"trial": {"solved": solved, "episodes": trial, "best": best, "decisions": decisions}}
