"""What all stages share: how one is skipped, resumed, saved and completed.

A learner learns and nothing else; the stage around it loops, saves, logs. What a checkpoint holds
is what the policy, the learner and the stage say they need to go on, each by files of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from irevla.envs.suite import Suite
from irevla.envs.vector import Job
from irevla.errors import UserError
from irevla.progress import console
from irevla.rollout.episodes import Outcome
from irevla.runs.run import Run
from irevla.storage.checkpoint import Checkpoints, load, series_name
from irevla.tasks import Stage
from irevla.types import Policy


@runtime_checkable
class Learner(Protocol):
    """How a policy learns: a third algorithm for stage 1 is one more of these, and one stage."""

    @property
    def updates(self) -> int:
        """Calls of `update` so far."""
        ...

    @property
    def moved(self) -> bool:
        """Whether any gradient of the policy was not exactly zero."""
        ...

    def state(self) -> dict[str, Any]:
        """Return all that learning goes on from beside the policy's own files, as files."""
        ...

    def load_state(self, files: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, bit for bit, once the policy has its files."""
        ...


@runtime_checkable
class Saved(Protocol):
    """What a policy is to a checkpoint."""

    def files(self) -> dict[str, Any]:
        """Return its files."""
        ...


def check_learnt(stage: Stage, *, updates: int, moved: bool) -> None:
    """Raise `UserError` where so many `updates` of the policy had no gradient but exact zeros.

    One that was not finite counts as none.
    """
    if updates > 0 and not moved:
        raise UserError(
            f"{stage.name}: nothing was learnt, for every gradient of the policy was exactly zero "
            f"or not finite in {updates} updates; begin with another policy (this one's actions "
            "may be stuck at -1 or 1), or lower the learning rate"
        )


def load_if_done(run: Run, policy: Policy, stage: Stage) -> bool:
    """Return whether `stage` is done; then `policy` gets the weights that it ended with.

    Raises `UserError` where its checkpoint is damaged.
    """
    if run.journal.done(stage.name) is None:
        return False
    policy.load_files(load(run.checkpoints.root / stage.folder, as_saved=True))
    run.checkpoints.drop(stage.folder)  # what a stop between journal and clean-up has left
    return True


def resume(
    checkpoints: Checkpoints,
    policy: Policy,
    stage: Stage,
    learner: Learner,
    *,
    silent: bool = False,
) -> dict[str, Any]:
    """Take up the newest sound checkpoint of `stage`; return its files, none where there is
    none."""
    found = checkpoints.newest(stage.folder)
    for reason in checkpoints.passed_over:
        console.print(f"passed over: {reason}", style="yellow", soft_wrap=True)
    if found is None:
        return {}
    path, files = found
    if not silent:
        console.print(f"going on from {path}", soft_wrap=True)
    policy.load_files(files)
    learner.load_state(files)
    return files


def save(
    checkpoints: Checkpoints,
    policy: Saved,
    stage: Stage,
    learner: Learner,
    **files: Any,
) -> None:
    """Write a checkpoint to go on from; `files` are what the stage itself needs."""
    name = series_name(stage.folder, learner.updates)
    checkpoints.save(name, {**policy.files(), **learner.state(), **files})


def complete(run: Run, policy: Policy, stage: Stage, **facts: Any) -> None:
    """Note that `stage` is done: keep its policy for good, then write the journal, then clean
    up."""
    run.checkpoints.save(stage.folder, policy.files())
    run.journal.append(stage.name, **facts)
    run.checkpoints.drop(stage.folder)


class ToPlay(NamedTuple):
    """What is left of episodes that are played until enough have succeeded, and what was played
    before."""

    left: list[Job]
    tried: int
    solved: int
    decisions: int


def still_to_play(
    run: Run,
    suite: Suite,
    stage: Stage,
    jobs: Sequence[Job],
    done: Mapping[int, int],
    *,
    wanted: int,
) -> ToPlay:
    """Return what of `jobs` is to be played until `wanted` have succeeded.

    `done` has the seed and the decisions of each that has succeeded. In a simulator they are played
    again, so that the counts come out as if nothing had been interrupted; on a real arm, where a
    person watches, they are not, nor are those that failed (`note_failure`), and all count as
    played before.
    """
    if suite.real_arm is None:
        return ToPlay(list(jobs), 0, 0, 0)
    failed = {
        record["seed"]: record["decisions"]
        for record in run.journal
        if record["event"] == _failure(stage)
    }
    played = {**failed, **done}
    left = [job for job in jobs if job.seed not in played] if len(done) < wanted else []
    return ToPlay(left, len(played), len(done), sum(played.values()))


def note_failure(run: Run, suite: Suite, stage: Stage, outcome: Outcome) -> None:
    """Write down an episode that failed on a real arm, so that nobody has to watch it again."""
    if suite.real_arm is not None:
        run.journal.append(_failure(stage), seed=outcome.job.seed, decisions=outcome.length)


def _failure(stage: Stage) -> str:
    return f"failed in {stage.name}"
