"""How far stage 1 has come on its task."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from irevla.config import PPOConfig, SACConfig

FILE = "progress.json"


@dataclass
class RLProgress:
    """What stage 1 has done so far, and whether it may end."""

    config: PPOConfig | SACConfig
    episodes: int = 0  # whole ones; of SAC those in its online buffer
    successes: int = 0  # among them
    decisions: int = 0
    dropped: int = 0  # partial episodes lost with a worker
    first: list[bool] = field(default_factory=list)  # successes of the first training episodes ...
    recent: list[bool] = field(default_factory=list)  # ... and of the last, `config.window` each

    def add(self, *, decisions: int, successes: Sequence[bool], dropped: int) -> None:
        """Count what one rollout brought."""
        self.decisions += decisions
        self.dropped += dropped
        self.episodes += len(successes)
        self.successes += sum(successes)
        self.first = [*self.first, *successes][: self.config.window]
        self.recent = [*self.recent, *successes][-self.config.window :]

    @property
    def rate(self) -> float:
        """Return the success rate of the recent training episodes (with exploration noise)."""
        return sum(self.recent) / max(1, len(self.recent))

    @property
    def converged(self) -> bool:
        """Return whether `config.converged` of the last `config.window` episodes succeeded."""
        wanted = self.config.converged * self.config.window
        return len(self.recent) == self.config.window and sum(self.recent) >= wanted

    @property
    def hopeless(self) -> bool:
        """Return whether nothing has succeeded in so many episodes that nothing will."""
        return self.successes == 0 and self.episodes >= self.config.hopeless

    @property
    def over(self) -> bool:
        """Return whether stage 1 has converged, is hopeless, or has spent its budget of
        decisions."""
        return self.converged or self.hopeless or self.decisions >= self.config.steps

    @property
    def fell(self) -> bool:
        """Return whether fewer of the last episodes succeeded than of as many first ones."""
        whole = len(self.first) == self.config.window and self.episodes >= 2 * self.config.window
        return whole and sum(self.recent) < sum(self.first)

    def note(self) -> str:
        """Say in a few words how the training episodes go."""
        return f"success {self.rate:.2f} in the last {len(self.recent)} episodes"

    def facts(self) -> dict[str, Any]:
        """Return what the journal says of a stage 1 that is done."""
        return {
            "decisions": self.decisions,
            "converged": self.converged,
            "dropped": self.dropped,
        }

    def files(self) -> dict[str, Any]:
        """Return the counts as a file of a checkpoint."""
        counts = asdict(self)
        del counts["config"]
        return {FILE: counts}

    def load_files(self, files: Mapping[str, Any]) -> None:
        """Take the counts up again, where `files` have them."""
        for name, value in files.get(FILE, {}).items():
            setattr(self, name, value)
