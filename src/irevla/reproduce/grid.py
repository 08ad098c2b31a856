"""Which runs a table or figure needs, as data, and how they are made: resumable, each thing once.

Every run is a run of Algorithm 1 in OUT/ROW/seed-N. Demonstrations and stage 0 are those of
the row "sft" with the same seed; all other rows start from them, or from `from_checkpoint`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from irevla.config import METHODS, Config, PPOConfig
from irevla.errors import unknown
from irevla.progress import console

SFT = "sft"
Change = Callable[[Config], Config]


def _as_it_is(config: Config) -> Config:
    return config


def _same_augmentation(config: Config) -> Config:
    return replace(config, sl=replace(config.sl, augment=config.sft.augment))


def _by_sac(config: Config) -> Config:
    return replace(config, rl="sac")


def _own_words(config: Config) -> Config:
    return replace(config, sac=replace(config.sac, other_words=False))


CONTROLS: dict[str, tuple[str, Change]] = {
    "same-augmentation": ("irevla", _same_augmentation),
    "irevla-sac": ("irevla", _by_sac),
    "own-words": ("irevla", _own_words),
}
"""Rows that are no method of their own: a method, and what is changed in its settings."""

ROWS: dict[str, tuple[str, Change]] = {
    **{method: (method, _as_it_is) for method in METHODS},
    **CONTROLS,
}


def _ppo_rate(lr: float) -> Change:
    def change(config: Config) -> Config:
        asked = config.ppo.lr != PPOConfig.lr
        return config if asked else replace(config, ppo=replace(config.ppo, lr=lr))

    return change


TUNED: dict[str, dict[str, Change]] = {
    "metaworld": {row: _ppo_rate(2e-5) for row in ("ppo-replay", "ppo-full", "scratch")},
}
"""Suite -> row -> what its sweep chose, unless another value is asked for: results/PROTOCOL.md."""

EVIDENCE: dict[str, tuple[str, tuple[str, ...]]] = {
    "table1": (
        "Does standard RL forget, and does iRe-VLA improve all three categories?",
        (SFT, "ppo-replay", "irevla"),
    ),
    "figure4": (
        "Do learning curves collapse where everything is trained, and is SFT a good start?",
        ("irevla", "ppo-full", "scratch"),
    ),
    "figure5": (
        "Is it worse to freeze the VLM in both stages?",
        (SFT, "ppo-replay", "irevla-freeze", "irevla"),
    ),
    "figure6": ("What do both stages bring on the arm?", (SFT, "irevla")),
    "controls": (
        "Is it RL, imitation of own successes, more supervised steps, augmentation, or words?",
        (
            SFT,
            "irevla",
            "irevla-sac",
            "self-imitation",
            "more-sft",
            "stage1-only",
            "same-augmentation",
            "own-words",
        ),
    ),
}
"""Name -> the question, and the rows that answer it."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    row: str
    seed: int
    directory: Path
    config: Config


def find_evidence(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the question and the rows of a table or figure. Raises `UserError` for an unknown
    name."""
    if name not in EVIDENCE:
        raise unknown("table or figure", name, EVIDENCE)
    return EVIDENCE[name]


def chosen(rows: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return those of `rows` that are wanted; all, where none is named. Raises `UserError` for
    others."""
    for row in wanted:
        if row not in rows:
            raise unknown("row", row, rows)
    return tuple(row for row in rows if row in wanted or not wanted)


def cells(config: Config, rows: Sequence[str], seeds: Sequence[int], root: Path) -> list[Cell]:
    """Return the runs of `rows` with each of `seeds`, stage 0 first; `config` has what all share.

    Rows that cannot be run with these settings (SAC trains no VLM), or that are another one with
    these, are left out, and said.
    """
    wanted = []
    for row in dict.fromkeys([SFT, *rows]):
        method, change = ROWS[row]
        if config.rl == "sac" and METHODS[method].rl == "all":
            console.print(f"no {row}: SAC trains no VLM", style="yellow", soft_wrap=True)
        elif row in CONTROLS and change(config) == config:
            console.print(f"no {row}: it is {method} here", style="yellow", soft_wrap=True)
        else:
            wanted.append(row)
    return [_cell(config, row, seed, root) for seed in seeds for row in wanted]


def _cell(config: Config, row: str, seed: int, root: Path) -> Cell:
    method, change = ROWS[row]
    first = root / SFT / f"seed-{seed}"
    start = config.from_checkpoint
    expert = config.expert
    if row != SFT:
        start = (start or str(first)) if METHODS[method].sft else ""
        expert = replace(expert, dataset=expert.dataset or str(first / "expert"))
    config = replace(config, seed=seed, method=method, from_checkpoint=start, expert=expert)
    tuned = TUNED.get(config.suite, {}).get(row, _as_it_is)
    return Cell(row, seed, root / row / f"seed-{seed}", change(tuned(config)))
