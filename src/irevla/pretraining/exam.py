"""How well a model answers questions about images of scenes that it never saw."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from irevla.models.vlm.tiny import TinyVLM
from irevla.pretraining.corpus import Corpus
from irevla.pretraining.questions import AXES, Question
from irevla.types import Observation

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
    """Return the grades of each family, and of "all", on one question per image and family.

    On `limit` questions at most. `blind`: each question is shown another image, so that what
    remains right was guessed from the words.
    """
    # Sorted, since a batch takes as long as its longest answer.
    chosen = sorted(_chosen(exam, limit), key=lambda pair: pair[1].family)
    shift = len(exam) // 2 if blind else 0
    marks: dict[str, list[tuple[bool, bool]]] = {}
    for start in range(0, len(chosen), BATCH):
        batch = chosen[start : start + BATCH]
        shown = torch.tensor([(image + shift) % len(exam) for image, _ in batch])
        texts = tuple(question.text for _, question in batch)
        observation = Observation(exam.images[shown], texts)
        answers = model.generate(observation.to(model.embedding.weight.device))
        for (_, question), answer in zip(batch, answers, strict=True):
            marks.setdefault(question.family, []).append(mark(question, answer))
    grades = {family: _grade(of_family) for family, of_family in marks.items()}
    return grades | {"all": _grade(list(chain.from_iterable(marks.values())))}


def mark(question: Question, answer: str) -> tuple[bool, bool]:
    """Return whether an answer is right, and whether it is at least near."""
    right = answer == question.answer
    if question.family in ("motion", "task"):
        return right, right or _distance(question.answer, answer) <= CLOSE_CM
    if re.fullmatch(r"column \d+ row \d+", question.answer):
        told = _numbers(answer)
        asked = _numbers(question.answer)
        if len(told) != 2:
            return right, False
        return right, bool(np.abs(np.array(told) - np.array(asked)).max() <= CLOSE_CELLS)
    return right, right


def displacement(motion: str) -> np.ndarray | None:
    """Return what "...: right 12 forward 5 down 8" says, in cm along the axes of the world.

    None if it is no such text.
    """
    match = re.fullmatch(".*: " + " ".join(f"({low}|{high}) (\\d+)" for low, high in AXES), motion)
    if match is None:
        return None
    words = match.groups()
    signs = [1 if words[2 * i] == positive else -1 for i, (_, positive) in enumerate(AXES)]
    distances = [float(number) for number in words[1::2]]
    return np.array([sign * distance for sign, distance in zip(signs, distances, strict=True)])


def _distance(asked: str, told: str) -> float:
    """Return how far one motion ends from another, cm; infinity where one is no motion."""
    right = displacement(asked)
    given = displacement(told)
    if right is None or given is None:
        return np.inf
    return float(np.linalg.norm(right - given))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _chosen(exam: Corpus, limit: int) -> list[tuple[int, Question]]:
    """Return images (by number) with questions, evenly thinned to `limit`.

    One question of each family about each image, each time another of the family.
    """
    every: list[tuple[int, Question]] = []
    for image, asked in enumerate(exam.questions):
        families: dict[str, list[Question]] = {}
        for question in asked:
            families.setdefault(question.family, []).append(question)
        every += [(image, same[image % len(same)]) for same in families.values()]
    count = min(limit, len(every))
    keep = np.arange(count) * len(every) // count
    return [every[i] for i in keep]


def _grade(marks: Sequence[tuple[bool, bool]]) -> Grade:
    right, near = np.mean(marks, 0).tolist()
    return Grade(right, near, len(marks))
