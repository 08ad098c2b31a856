"""The tables of results/kitchen and results/panda: before and after Algorithm 1, pooled over seeds,
the kitchen's beside the paper's table I. Where stage 1 was SAC: how long a robot would have moved
for it.

    .venv/bin/python scripts/before_after.py results/kitchen/seed-*/results.json

Prints Markdown.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from irevla.envs.suite import load_suite
from irevla.evaluation.stats import Count, Results, newcombe, read_results
from irevla.tasks import BASELINE, SFT, Category, Stage

PAPER = {  # task -> SFT policy, PPO-Replay, iRe-VLA: table I of arXiv 2501.16664
    "knob-on": (0.84, 0.48, 0.90),
    "light-on": (0.96, 0.64, 0.98),
    "microwave-open": (0.70, 0.35, 0.82),
    "slide-door-open": (0.86, 0.96, 0.99),
    "left-door-open": (0.43, 0.12, 0.83),
    "slide-door-open-red": (0.46, 0.30, 0.99),
    "slide-door-open-yellow": (0.98, 0.64, 1.00),
}


def main(paths: Sequence[Path]) -> None:
    """Print the table of these runs."""
    runs = [read_results(path) for path in paths]
    known = any(task in PAPER for category in Category for task in runs[0].tasks(category))
    columns = [
        "blind",
        "SFT",
        "irevla",
        "change",
        "each seed",
        *(["paper: SFT", "PPO-Replay", "iRe-VLA"] if known else []),
    ]
    print("|", " | ".join(["task", "category", *columns]), "|")
    print("|---|---|" + "---:|" * len(columns))
    for category in Category:
        for task in runs[0].tasks(category):
            paper = ([f"{rate:.2f}" for rate in PAPER.get(task, ())] or [""] * 3) if known else []
            print("|", " | ".join([task, category.value, _ours(runs, category, task), *paper]), "|")
        tasks = len(runs[0].tasks(category))
        mean = [f"**mean of {tasks}**", f"**{category.value}**", _ours(runs, category, None)]
        print("|", " | ".join([*mean, *([""] * 3 if known else [])]), "|")


def robot_time(path: Path) -> None:
    """Print the minutes that the decisions of a run's zero-shot successes, RL and harvests would
    take, for each RL task."""
    lines = (path.parent / "journal.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    fps = load_suite(json.loads(path.read_text())["config"]["suite"]).fps
    for task in sorted(
        {
            turn.task
            for event in events
            if (turn := Turn.of(event["event"])) and "decisions" in event
        }
    ):
        minutes: Counter[str] = Counter()
        for event in events:
            kind, turn = event["event"].partition(":")[0], Turn.of(event["event"])
            if turn and turn.task == task and "decisions" in event:
                minutes[kind] += event["decisions"] / fps / 60
        parts = ", ".join(f"{kind} {value:.1f}" for kind, value in minutes.items())
        print(
            f"{path.parent.name}, {task}: {sum(minutes.values()):.1f} minutes of robot time ({parts})"
        )


def _ours(runs: Sequence[Results], category: Category, task: str | None) -> str:
    """Blind replay, before, after and the difference with its interval over episodes, then each
    seed's before and after."""
    last = runs[0].last
    assert last is not None, "a run that has not ended"
    blind = _counts(runs, BASELINE, category, task, method="blind-replay")
    before, after = _counts(runs, FIRST, category, task), _counts(runs, last, category, task)
    low, high = newcombe(_sum(before), _sum(after))
    each = ", ".join(f"{b.rate:.2f}→{a.rate:.2f}" for b, a in zip(before, after, strict=True))
    rates = [s / n for s, n in map(_sum, (blind, before, after))]
    cells = [
        *(f"{rate:.2f}" for rate in rates),
        f"{rates[2] - rates[1]:+.2f} [{low:+.2f}, {high:+.2f}]",
        each,
    ]
    return " | ".join(cells)


def _counts(
    runs: Sequence[Results],
    stage: str,
    category: Category,
    task: str | None,
    *,
    method: str | None = None,
) -> list[Count]:
    counts = [run.count(stage, category=category, task=task, method=method) for run in runs]
    return [count for count in counts if count is not None]


def _sum(counts: Sequence[Count]) -> tuple[int, int]:
    return sum(count.successes for count in counts), sum(count.episodes for count in counts)


if __name__ == "__main__":
    named = [Path(argument) for argument in sys.argv[1:]]
    main(named)
    for path in named:
        robot_time(path)
