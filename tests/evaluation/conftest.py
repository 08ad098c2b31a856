"""A run directory with invented but plausible numbers."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from irevla.config import Config
from irevla.config_io import to_dict
from irevla.evaluation.stats import Row
from irevla.evaluation.video import write_video
from irevla.storage.metrics import Metrics
from irevla.tasks import Category

EXPERT = ("reach", "push", "door-open", "window-close")
RL = ("window-close-new", "button-press-new")
UNSEEN = ("drawer-open-blue", "door-open-shifted")
STAGES = (
    "sft",
    "rl:window-close-new",
    "sl:window-close-new",
    "rl:button-press-new",
    "sl:button-press-new",
)
RATES = {  # after each of STAGES
    "reach": (0.94, 0.90, 0.96, 0.86, 0.94),
    "push": (0.80, 0.72, 0.84, 0.70, 0.82),
    "door-open": (0.88, 0.84, 0.90, 0.88, 0.92),
    "window-close": (0.92, 0.94, 0.96, 0.90, 0.94),
    "window-close-new": (0.34, 0.86, 0.82, 0.80, 0.84),
    "button-press-new": (0.30, 0.26, 0.40, 0.76, 0.80),
    "drawer-open-blue": (0.22, 0.20, 0.24, 0.18, 0.30),
    "door-open-shifted": (0.56, 0.50, 0.30, 0.28, 0.26),
}
BLIND = {
    "reach": 0.02,
    "push": 0.0,
    "door-open": 0.30,
    "window-close": 0.24,
    "window-close-new": 0.06,
    "button-press-new": 0.0,
    "drawer-open-blue": 0.0,
    "door-open-shifted": 0.22,
}
CATEGORIES = {
    **dict.fromkeys(EXPERT, Category.EXPERT),
    **dict.fromkeys(RL, Category.RL),
    **dict.fromkeys(UNSEEN, Category.UNSEEN),
}


def row(task: str, stage: str, rate: float, *, episodes: int = 50, method: str = "irevla") -> Row:
    return Row.of(
        method=method,
        task=task,
        category=CATEGORIES[task],
        stage=stage,
        seed=0,
        successes=round(rate * episodes),
        episodes=episodes,
        env_steps=40 * episodes,
        seconds=12.5,
    )


def rows() -> list[Row]:
    blind = [row(task, "baseline", rate, method="blind-replay") for task, rate in BLIND.items()]
    interim = {stage: 50 if stage in (STAGES[0], STAGES[-1]) else 20 for stage in STAGES}
    return blind + [
        row(task, stage, rates[index], episodes=interim[stage])
        for index, stage in enumerate(STAGES)
        for task, rates in RATES.items()
    ]


def write_results(
    directory: Path,
    measured: list[Row],
    *,
    config: Config | None = None,
    git: str = "3f2a91c04b7d",
) -> None:
    content: dict[str, Any] = {
        "config": to_dict(Config() if config is None else config),
        "git": git,
        "machine": {
            "cpu": "A processor, 2.4 GHz",
            "cores": 2,
            "gpu": None,
            "python": "3.11.9",
            "torch": "2.13.0",
        },
        "command": "irevla run quickstart --out 'runs/my run'",
        "rows": [each.to_json() for each in measured],
    }
    (directory / "results.json").write_text(json.dumps(content))


def write_metrics(path: Path) -> None:
    rng = np.random.default_rng(0)
    with Metrics(path) as metrics:
        for stage in STAGES:
            if stage.startswith("rl:"):
                for update in range(1, 51):
                    rate = 0.25 + 0.55 / (1 + math.exp(-(update - 22) / 5)) + rng.normal(0, 0.07)
                    metrics.log(
                        stage,
                        update * 1024,
                        success=min(1.0, max(0.0, rate)),
                        kl=0.01,
                        decisions=update * 1024,
                    )
            else:
                steps = 3000 if stage == "sft" else 800
                for step in range(20, steps + 1, 20):
                    loss = (0.3 if stage == "sft" else 0.05) * math.exp(-step / 700) + 0.03
                    metrics.log(stage, step, loss=loss * rng.lognormal(0, 0.1), lr=1e-3)
                    if step % (steps // 8) < 20:
                        metrics.log(stage, step, validation=loss * 1.15)


def write_videos(directory: Path) -> None:
    index = {}
    at = np.indices((96, 96))
    for number, task in enumerate(RATES):
        centres = [(24 + 2 * t, 30 + 6 * number) for t in range(12)]
        frames = [
            ((at[0] - y) ** 2 + (at[1] - x) ** 2 < 120)[..., None] * np.array([230, 159, 0]) + 20
            for y, x in centres
        ]
        write_video(
            directory / f"{task}.mp4", np.stack(frames).clip(0, 255).astype(np.uint8), fps=10
        )
        index[task] = {"success": number % 3 != 2, "seed": 1_000_000 + number, "stage": STAGES[-1]}
    (directory / "index.json").write_text(json.dumps(index))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A whole run directory, or, with `rows`, one of just those."""

    def make(measured: list[Row] | None = None, **results: Any) -> Path:
        directory = tmp_path / "my run"
        directory.mkdir()
        write_results(directory, rows() if measured is None else measured, **results)
        if measured is None:
            write_metrics(directory / "metrics.jsonl")
            write_videos(directory / "videos")
            (directory / "config.yaml").write_text(
                yaml.safe_dump(to_dict(Config()), sort_keys=False)
            )
            (directory / "journal.jsonl").write_text(
                '{"event": "rl button-press-new", "dropped": 3}\n'
            )
        return directory

    return make
