"""How well a model answers questions about pictures of scenes that it never saw."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from irevla.models.vlm.tiny import TinyVLM
from irevla.pretraining.corpus import Corpus
from irevla.pretraining.questions import AXES, Question

CLOSE_CM = 4.0  # a motion is nearly right if it ends this near to the right place
CLOSE_CELLS = 1  # a cell is nearly right if column and row are at most this far off
BATCH = 128


@dataclass(frozen=True)
class Grade:
    """Shares of one family's questions."""

    right: float  # word for word
    near: float  # for positions: nearly (see above); else as `right`
    count: int


def examine(model: TinyVLM, exam: Corpus, *, limit: int, blind: bool = False) -> dict[str, Grade]:
    """Grades of each family, and of "all", on one question per picture and family, `limit`
    questions at most.

    `blind`: each question is shown another picture, so that what remains right was guessed from the
    words.
    """
    chosen = sorted(
        _chosen(exam, limit), key=lambda pair: pair[1].family
    )  # a batch takes as long as its longest answer
    answers: list[str] = []
    for start in range(0, len(chosen), BATCH):
        batch = chosen[start : start + BATCH]
        pictures = [
            (picture + len(exam) // 2) % len(exam) if blind else picture for picture, _ in batch
        ]
        images = exam.images[torch.tensor(pictures)].to(model.embedding.weight.device)
        answers += model.generate(images, [question.text for _, question in batch])
    marks = [
        (question.family, *mark(question, answer))
        for (_, question), answer in zip(chosen, answers, strict=True)
    ]
    families = sorted({family for family, _, _ in marks})
    return {family: _grade([m for m in marks if m[0] == family]) for family in families} | {
        "all": _grade(marks)
    }


def mark(question: Question, answer: str) -> tuple[bool, bool]:
    """Whether an answer is right, and whether it is at least near."""
    right = answer == question.answer
    if question.family in ("motion", "task"):
        return right, right or _distance(question.answer, answer) <= CLOSE_CM
    if re.fullmatch(r"column \d+ row \d+", question.answer):
        told, asked = _numbers(answer), _numbers(question.answer)
        return right, len(told) == 2 and bool(
            np.abs(np.array(told) - np.array(asked)).max() <= CLOSE_CELLS
        )
    return right, right


def displacement(motion: str) -> np.ndarray | None:
    """What "...: right 12 forward 5 down 8" says, in cm along the axes of the world; None if it is
    no such text."""
    match = re.fullmatch(".*: " + " ".join(f"({low}|{high}) (\\d+)" for low, high in AXES), motion)
    if match is None:
        return None
    words = match.groups()
    return np.array(
        [float(words[2 * i + 1]) * (1 if words[2 * i] == AXES[i][1] else -1) for i in range(3)]
    )


def _distance(asked: str, told: str) -> float:
    right, given = displacement(asked), displacement(told)
    return np.inf if right is None or given is None else float(np.linalg.norm(right - given))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _chosen(exam: Corpus, limit: int) -> list[tuple[int, Question]]:
    """One question of each family about each picture, each time another of the family; evenly
    thinned to `limit`."""
    every: list[tuple[int, Question]] = []
    for picture, asked in enumerate(exam.questions):
        families: dict[str, list[Question]] = {}
        for question in asked:
            families.setdefault(question.family, []).append(question)
        every += [(picture, same[picture % len(same)]) for same in families.values()]
    keep = np.arange(min(limit, len(every))) * len(every) // min(limit, len(every))
    return [every[i] for i in keep]


def _grade(marks: Sequence[tuple[str, bool, bool]]) -> Grade:
    return Grade(
        sum(m[1] for m in marks) / len(marks), sum(m[2] for m in marks) / len(marks), len(marks)
    )
