"""Tasks, their categories, the stages of Algorithm 1, and every seed. Without torch: workers have
none.

Every draw of a run comes from (seed, stage, step): episodes have seeds in blocks (`first_seed`),
all other draws a seed of their own (`draw_seed`).
"""

import hashlib
import re
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import Literal

from irevla.errors import UserError, unknown


class Category(StrEnum):
    """The paper's three groups of tasks (section V-A), and one that no run takes by itself."""

    EXPERT = "expert"  # demonstrated in D_e
    RL = "rl"  # improved by online RL
    UNSEEN = "unseen"  # held out of all training
    TEST = "test"  # held out of every choice too: made last, for `irevla eval --tasks`


@dataclass(frozen=True)
class Task:
    """One task of a suite, as data."""

    name: str
    category: Category
    instruction: str  # free-form language; variants of one skill share it
    note: str = ""  # what differs from the expert task, for people


def described(name: str, category: str, instruction: str, note: str = "", *, where: str) -> Task:
    """Return the task that a person describes in a file, at `where` in it.

    Raises `UserError` where its name is no name of a folder, its category unknown, or its
    instruction empty.
    """
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise UserError(
            f"{where:.200}: a task's name has letters, digits, '-', '_' and '.' alone, 100 at most"
        )
    known = [each.value for each in Category]
    if category not in known:
        raise unknown(f"category of {where}", category, known)
    if not instruction.strip():
        raise UserError(f"{where} has no instruction; say in words what is to be done")
    return Task(name, Category(category), instruction, note)


def plain(instruction: str) -> str:
    """Return what two ways to write one instruction have in common: not case, spaces, full stop."""
    return " ".join(instruction.casefold().split()).rstrip(" .")


def series(task: str) -> str:
    """Return what numbered tasks have in common, "spatial" of "spatial-3"; of others nothing."""
    name, _, number = task.rpartition("-")
    return name if number.isdecimal() else ""


@dataclass(frozen=True)
class TaskLists:
    """The names of a run's tasks, in the paper's three categories."""

    expert: tuple[str, ...]
    rl: tuple[str, ...]  # in the order in which they are learned: T_1, T_2, ...
    unseen: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Every task once, in the order expert, RL, unseen."""
        return tuple(dict.fromkeys(self.expert + self.rl + self.unseen))


# --- Stages

Parts = Literal["none", "head", "all"]
"""What is trainable: nothing; the action head (phi); everything (theta and phi)."""

Kind = Literal["baseline", "sft", "zero-shot", "rl", "harvest", "sl"]
"""What is done: stage 0 is "sft", stage 1 "rl" (with SAC, "zero-shot" successes come first), line 6
of Algorithm 1 "harvest", stage 2 "sl". "baseline" is what is measured without any trained
policy."""

KINDS: tuple[Kind, ...] = ("baseline", "sft", "zero-shot", "rl", "harvest", "sl")


@dataclass(frozen=True)
class Stage:
    """One step of Algorithm 1: what is done, on which task, in which round."""

    kind: Kind
    task: str = ""  # empty where the stage is of no single task
    round: int = 1  # how many times the RL tasks are gone through by then

    @property
    def target(self) -> str:
        """The task and its round: "pick-carrot", and in the second round "pick-carrot@2"."""
        return self.task if self.round == 1 else f"{self.task}@{self.round}"

    @property
    def name(self) -> str:
        """The stage in journals, metrics and results: "sft", "rl:pick-carrot@2"."""
        return f"{self.kind}:{self.target}" if self.task else self.kind

    @property
    def folder(self) -> str:
        """The stage's checkpoint: "rl-pick-carrot@2"."""
        return self.name.replace(":", "-")

    @property
    def title(self) -> str:
        """The stage in words: "RL pick-carrot@2"."""
        return f"{self.kind.upper()} {self.target}".strip()

    def trains(self, task: str) -> bool:
        """Whether the stage trains on `task` in particular, as stages 1 and 2 of its turn do."""
        return self.kind in ("rl", "sl") and self.task == task

    def then(self, kind: Kind) -> "Stage":
        """Another step of the same turn: of the same task, in the same round."""
        return replace(self, kind=kind)

    @staticmethod
    def parse(name: str) -> "Stage":
        """The inverse of `name`. Raises `UserError` for the name of no stage."""
        kind, _, target = name.partition(":")
        task, _, number = target.partition("@")
        for known in KINDS:
            if kind == known and (not number or re.fullmatch(r"[1-9]\d{0,3}", number)):
                return Stage(known, task, int(number or 1))
        raise unknown("stage", name, KINDS)


BASELINE = Stage("baseline")
SFT = Stage("sft")


# --- Seeds

BLOCK = 100_000_000  # episode seeds of a purpose
SHARE = 100_000  # episode seeds of a run (or of an evaluation block) within it
PURPOSES = 10  # at most; each later round of Algorithm 1 has as many blocks again


class Purpose(IntEnum):
    """What an episode is played for. Each has a block of seeds, so no purpose meets another's."""

    EXPERT = 0  # demonstrations for D_e
    RL = 1  # exploration in stage 1
    HARVEST = 2  # successes for D_RL
    BLIND = 3  # the demonstrations that the blind baseline replays
    ZERO_SHOT = 4  # successes of the policy as it is, before SAC trains it
    EVALUATION = 9


def first_seed(purpose: Purpose, seed: int, *, round: int = 1) -> int:
    """Return the first episode seed of `purpose` for the run (or evaluation block) `seed` in
    0..999.

    The next SHARE - 1 follow it. Each round of Algorithm 1 has seeds of its own.
    """
    assert 0 <= seed < BLOCK // SHARE
    return (purpose + PURPOSES * (round - 1)) * BLOCK + seed * SHARE


def evaluation_number(seed: int) -> int | None:
    """Return which episode of evaluation block 0, the usual one, has this seed; None: of none.

    A benchmark's fixed start states are for these alone.
    """
    number = seed - first_seed(Purpose.EVALUATION, 0)
    return number if 0 <= number < SHARE else None


def draw_seed(*key: int | str) -> int:
    """Return a seed in 0..2^63 - 1 for the draws that `key` names: (seed, stage, use, step), say.

    Other keys give independent draws, and nothing that ran before matters.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
