"""The table of results/vlm: success rates of SFT policies that start from different VLMs, over
seeds.

    .venv/bin/python scripts/vlm_table.py results/vlm

Reads results/vlm/ARM-SEED.json (each the results.json of one `irevla run --method sft`), prints
Markdown.
"""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from irevla.evaluation.stats import Results, newcombe, read_results
from irevla.tasks import BASELINE, SFT, Category

COLUMNS = {Category.EXPERT: "expert", Category.RL: "RL, zero-shot", Category.UNSEEN: "unseen"}
REFERENCE = "random"  # the arm that the others are compared with


def main(folder: Path) -> None:
    """Print the table of all runs in `folder`."""
    arms: dict[str, list[Results]] = defaultdict(list)
    for path in sorted(folder.glob("*-[0-9].json")):
        arms[path.stem.rpartition("-")[0]].append(read_results(path))
    titles = [
        f"{title} ({len(arms[REFERENCE][0].tasks(category))})"
        for category, title in COLUMNS.items()
    ]
    print(f"| start | seeds | {' | '.join(titles)} |")
    print("|---|---:" + "|---:" * len(titles) + "|")
    first = next(iter(arms.values()))[0]
    blind = [
        count.rate if (count := first.count(BASELINE, category=c, method="blind-replay")) else 0
        for c in COLUMNS
    ]
    print(f"| *blind replay* | | {' | '.join(f'*{rate:.2f}*' for rate in blind)} |")
    for arm, runs in arms.items():
        cells = [_cell(arm, runs, arms, category) for category in COLUMNS]
        print(f"| {arm} | {len(runs)} | {' | '.join(cells)} |")


def _cell(
    arm: str, runs: Sequence[Results], arms: Mapping[str, Sequence[Results]], category: Category
) -> str:
    """Mean over seeds, each seed's rate, and the difference from the reference with its interval
    over episodes."""
    rates = [_count(run, category) for run in runs]
    text = (
        f"**{mean(s / n for s, n in rates):.2f}** ({', '.join(f'{s / n:.2f}' for s, n in rates)})"
    )
    if arm == REFERENCE:
        return text
    before, after = _pooled(arms[REFERENCE], category), _pooled(runs, category)
    low, high = newcombe(before, after)
    return f"{text} {after[0] / after[1] - before[0] / before[1]:+.2f} [{low:+.2f}, {high:+.2f}]"


def _pooled(runs: Sequence[Results], category: Category) -> tuple[int, int]:
    counts = [_count(run, category) for run in runs]
    return sum(s for s, _ in counts), sum(n for _, n in counts)


def _count(run: Results, category: Category) -> tuple[int, int]:
    count = run.count(SFT, category=category)
    assert count is not None, "a run without an evaluation after SFT"
    return count.successes, count.episodes


if __name__ == "__main__":
    main(Path(sys.argv[1]))
