"""Before and after Algorithm 1 as a Markdown table, pooled over the seeds of one experiment.

    .venv/bin/python scripts/before_after.py results/kitchen/seed-*/results.json

The mean over expert tasks leaves out those that RL trains too. Where stage 1 was SAC, the robot
time of each RL task follows. Nothing but results.json and the journal beside it is read.
"""

import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irevla.evaluation.stats import newcombe

CATEGORIES = ("expert", "rl", "unseen")
ARM_HZ = {"panda-sim": 10.0, "panda": 10.0, "kitchen": 12.5}  # decisions per second
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # seeds -> 97.5 % point of Student's t
PAPER = {  # task -> SFT policy, PPO-Replay, iRe-VLA: table I of arXiv 2501.16664
    "knob-on": (0.84, 0.48, 0.90),
    "light-on": (0.96, 0.64, 0.98),
    "microwave-open": (0.70, 0.35, 0.82),
    "slide-door-open": (0.86, 0.96, 0.99),
    "left-door-open": (0.43, 0.12, 0.83),
    "slide-door-open-red": (0.46, 0.30, 0.99),
    "slide-door-open-yellow": (0.98, 0.64, 1.00),
}


@dataclass(frozen=True)
class Run:
    """What one results.json says; of rows that were measured twice, the last."""

    path: Path
    suite: str
    rl_tasks: frozenset[str]
    rows: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, path: Path) -> "Run":
        """Read one results.json."""
        data = json.loads(path.read_text())
        latest = {(row["method"], row["task"], row["stage"]): row for row in data["rows"]}
        category_rl = [row["task"] for row in latest.values() if row["category"] == "rl"]
        rl_tasks = frozenset(data["config"]["rl_tasks"] or category_rl)
        return cls(path, data["config"]["suite"], rl_tasks, tuple(latest.values()))

    @property
    def last_stage(self) -> str:
        """The stage after which the policy was evaluated last."""
        stages = [str(row["stage"]) for row in self.rows if row["stage"] != "baseline"]
        return stages[-1]

    def tasks(self, category: str) -> list[str]:
        """The tasks of a category, in the order in which they were evaluated."""
        return list(dict.fromkeys(r["task"] for r in self.rows if r["category"] == category))

    def count(self, stage: str, tasks: Iterable[str]) -> tuple[int, int]:
        """Successes and episodes of these tasks after `stage`."""
        chosen = [r for r in self.rows if r["stage"] == stage and r["task"] in set(tasks)]
        assert chosen, f"{self.path} has no rows of {stage!r} for {sorted(tasks)}"
        return sum(r["successes"] for r in chosen), sum(r["episodes"] for r in chosen)


def main(runs: Sequence[Run]) -> None:
    """Print the table, then the robot time of each run."""
    every = [task for category in CATEGORIES for task in runs[0].tasks(category)]
    in_paper = any(task in PAPER for task in every)
    columns = ["task", "category", "blind", "SFT", "irevla", "change", "over seeds", "each seed"]
    if in_paper:
        columns += ["paper: SFT", "PPO-Replay", "iRe-VLA"]
    print("|", " | ".join(columns), "|")
    print("|---|---|" + "---:|" * (len(columns) - 2))
    for category in CATEGORIES:
        tasks = runs[0].tasks(category)
        for task in tasks:
            paper = [f"{rate:.2f}" for rate in PAPER.get(task, ())] or [""] * 3
            _print_line([task, category, *_measured(runs, [task])], paper if in_paper else [])
        name, kept = _mean_of(runs[0], category, tasks)
        cells = [f"**{name}**", f"**{category}**", *_measured(runs, kept)]
        _print_line(cells, [""] * 3 if in_paper else [])
    for run in runs:
        print_robot_time(run)


def _mean_of(run: Run, category: str, tasks: Sequence[str]) -> tuple[str, list[str]]:
    """The tasks that a category's mean is over: of the expert ones, those that RL never trained."""
    kept = [task for task in tasks if category != "expert" or task not in run.rl_tasks]
    left_out = [task for task in tasks if task not in kept]
    name = f"mean of {len(kept)}"
    if left_out:
        name += f", without {', '.join(left_out)}"
    return name, kept


def _measured(runs: Sequence[Run], tasks: Sequence[str]) -> list[str]:
    """Blind replay, before, after; the change with its interval over episodes, and over seeds;
    each seed."""
    blind = _pooled([run.count("baseline", tasks) for run in runs])
    befores = [run.count("sft", tasks) for run in runs]
    afters = [run.count(run.last_stage, tasks) for run in runs]
    before = _pooled(befores)
    after = _pooled(afters)
    low, high = newcombe(before, after)
    change = f"{_rate(after) - _rate(before):+.2f} [{low:+.2f}, {high:+.2f}]"
    seeds = list(zip(befores, afters, strict=True))
    each = [f"{_rate(b):.2f}→{_rate(a):.2f}" for b, a in seeds]
    rates = [f"{_rate(count):.2f}" for count in (blind, before, after)]
    return [*rates, change, _over_seeds([_rate(a) - _rate(b) for b, a in seeds]), ", ".join(each)]


def _over_seeds(changes: Sequence[float]) -> str:
    """The 95 % t-interval of the mean change over training seeds; empty where the table ends."""
    if len(changes) not in T95:
        return ""
    mean = statistics.mean(changes)
    half = T95[len(changes)] * statistics.stdev(changes) / math.sqrt(len(changes))
    return f"[{mean - half:+.2f}, {mean + half:+.2f}]"


def print_robot_time(run: Run) -> None:
    """Print the minutes that a robot would have moved for each RL task, where the journal counts.

    The parts are zero-shot successes, RL and harvests.
    """
    lines = (run.path.parent / "journal.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    hz = ARM_HZ.get(run.suite)
    minutes: dict[str, Counter[str]] = {}
    for event in events:
        kind, _, turn = event["event"].partition(":")
        if hz and turn and "decisions" in event:
            task = turn.partition("@")[0]
            minutes.setdefault(task, Counter())[kind] += event["decisions"] / hz / 60
    for task, parts in sorted(minutes.items()):
        if "zero-shot" not in parts:  # PPO, in simulation: nobody counts minutes
            continue
        listed = ", ".join(f"{kind} {value:.1f}" for kind, value in parts.items())
        total = f"{sum(parts.values()):.1f} minutes of robot time"
        print(f"{run.path.parent.name}, {task}: {total} ({listed})")


def _print_line(cells: Sequence[str], paper: Sequence[str]) -> None:
    print("|", " | ".join([*cells, *paper]), "|")


def _pooled(counts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(s for s, _ in counts), sum(n for _, n in counts)


def _rate(count: tuple[int, int]) -> float:
    return count[0] / count[1]


if __name__ == "__main__":
    main([Run.read(Path(argument)) for argument in sys.argv[1:]])
