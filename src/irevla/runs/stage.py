"""What a stage leaves behind, and how an interrupted one finds its way back."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from irevla.runs.checkpoint import Checkpoints, load, series_name
from irevla.runs.progress import console
from irevla.runs.run import Run

Tensors = Mapping[str, Mapping[str, Tensor]]  # by file


@runtime_checkable
class Saved(Protocol):
    """A policy as files."""

    def files(self) -> dict[str, Any]:
        """Its weights and settings."""
        ...

    def load_files(self, files: Mapping[str, Any]) -> None:
        """Take the weights from such files."""
        ...


@runtime_checkable
class Place(Protocol):
    """Where checkpoints are kept: a run."""

    @property
    def checkpoints(self) -> Checkpoints:
        """They."""
        ...


def folder(stage: str) -> str:
    """The checkpoint of a stage: "rl:door-open-new" is in rl-door-open-new."""
    return stage.replace(":", "-")


def recall(run: Run, policy: Saved, stage: str) -> bool:
    """Whether `stage` is done; then `policy` gets the weights that it ended with. A damaged
    checkpoint is a `UserError`."""
    if run.journal.done(stage) is None:
        return False
    policy.load_files(load(run.checkpoints.root / folder(stage)))
    return True


def finish(run: Run, policy: Saved, stage: str, **facts: Any) -> None:
    """`stage` is done: keep its policy for good, then write it into the journal with `facts`, then
    drop its checkpoints."""
    run.checkpoints.save(folder(stage), policy.files())
    run.journal.append(stage, **facts)
    run.checkpoints.drop(folder(stage))


@dataclass
class RLProgress:
    """How far stage 1 has come on a task."""

    window: int  # episodes that decide about convergence
    updates: int = 0
    decisions: int = 0
    dropped: int = 0  # partial episodes lost with a worker
    recent: list[bool] = field(
        default_factory=list
    )  # successes of the last `window` training episodes

    def add(self, *, decisions: int, successes: Sequence[bool], dropped: int) -> None:
        """Count one update and its rollout."""
        self.updates += 1
        self.decisions += decisions
        self.dropped += dropped
        self.recent = [*self.recent, *successes][-self.window :]

    @property
    def rate(self) -> float:
        """Success rate of the recent training episodes (with exploration noise)."""
        return sum(self.recent) / max(1, len(self.recent))

    def save(self, run: Place, policy: Saved, stage: str, *, learner: Tensors) -> None:
        """A checkpoint to go on from: the policy, the learner's own files and these counts."""
        files = {**policy.files(), **learner, "progress.json": asdict(self)}
        run.checkpoints.save(series_name(folder(stage), self.updates), files)

    def resume(self, run: Place, policy: Saved, stage: str) -> dict[str, Any] | None:
        """Take up the newest sound checkpoint of `stage`. Returns its files, the learner's among
        them; None if there is none."""
        found = run.checkpoints.newest(folder(stage))
        for reason in run.checkpoints.passed_over:
            console.print(f"[yellow]passed over:[/] {reason}", soft_wrap=True)
        if found is None:
            return None
        path, files = found
        console.print(f"going on from {path}", soft_wrap=True)
        policy.load_files(files)
        for name, value in files["progress.json"].items():
            setattr(self, name, value)
        return files
