"""Questions about an image and their answers, from the facts of the scene.

Every word is in the tokenizer's vocabulary; positions are discretised.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from irevla.pretraining.palette import NAMED
from irevla.pretraining.scenes import KINDS, Facts, Located

CELLS = 16  # columns and rows that an image is divided into
DISTANCES = np.array([*range(21), 25, 30, 40, 45, 50, 60, 70, 80, 90, 100])  # cm that have a word
# Of the robot: x, y, z of the world.
AXES = (("left", "right"), ("back", "forward"), ("down", "up"))
ENDS = 0.15  # a joint this near to one end (of its range) is said to be there


@dataclass(frozen=True)
class Question:
    """A question, its answer, and the family that it is counted in."""

    family: str
    text: str
    answer: str


def questions(facts: Facts, rng: np.random.Generator) -> list[Question]:
    """Return about a dozen different questions about one image, of every family that applies."""
    objects = [obj for obj in facts.objects if obj.visible]
    parts = [part for part in facts.parts if part.visible]
    found = [*_places(objects, parts, rng)]
    found += _looks(objects, rng)
    found += _states(objects)
    found += _existence(objects, rng)
    found += _compare(objects, facts.hand, rng)
    found += _count(objects)
    found.append(_caption(objects, facts))
    if facts.hand.visible:
        found += _hand(facts)
        found += _motions(objects, parts, facts, rng)
    return found


def motion(start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"]) -> str:
    """Say how to get from one point to another, as "right 12 forward 5 down 8".

    In cm along the axes of the robot.
    """
    words = []
    for (negative, positive), metres in zip(AXES, end - start, strict=True):
        words += [positive if metres >= 0 else negative, _distance(abs(metres))]
    return " ".join(words)


def way(hand: Located, target: Located) -> str:
    """Say how the gripper gets to an object: "column 9 row 5 to column 5 row 7: right 12 forward 5
    down 8"."""
    return f"{cell(hand.pixel)} to {cell(target.pixel)}: {motion(hand.point, target.point)}"


def cell(pixel: tuple[float, float]) -> str:
    """Say where in the image, as "column 5 row 11": counted from the top left, from 1."""
    column, row = (min(CELLS, 1 + int(CELLS * share)) for share in pixel)
    return f"column {column} row {row}"


def _distance(metres: float) -> str:
    return str(DISTANCES[np.abs(DISTANCES - 100 * metres).argmin()])


def _named(obj: Located, rng: np.random.Generator) -> str:
    """Say how an object is referred to: a toy always by its colour, which no other toy has."""
    colour = obj.colour if obj.kind or rng.random() < 0.5 else ""
    size = obj.size if obj.kind and rng.random() < 0.2 else ""
    return " ".join(word for word in ("the", size, colour, obj.name) if word)


def _some(items: Sequence[Located], count: int, rng: np.random.Generator) -> list[Located]:
    return [items[i] for i in rng.permutation(len(items))[:count]]


# --- families


def _places(
    objects: Sequence[Located], parts: Sequence[Located], rng: np.random.Generator
) -> Iterator[Question]:
    """Ask where objects are in the image."""
    for obj in _some([*objects, *parts], 2, rng):
        yield Question("place", f"where in the picture is {_named(obj, rng)}?", cell(obj.pixel))
    toys = [obj for obj in objects if obj.kind]
    for toy in _some(toys, 1, rng):
        yield Question("what", f"what is at {cell(toy.pixel)}?", f"a {toy.colour} {toy.name}")


def _motions(
    objects: Sequence[Located], parts: Sequence[Located], facts: Facts, rng: np.random.Generator
) -> Iterator[Question]:
    """Ask how the gripper gets somewhere, in the image and in the world: by name, or by what is to
    be done."""
    for obj in _some([*objects, *parts], 3, rng):
        yield Question(
            "motion", f"how does the gripper get to {_named(obj, rng)}?", way(facts.hand, obj)
        )
    tasks = [(text, at) for text, at in facts.tasks if at.visible]
    for i in rng.permutation(len(tasks))[:3]:
        text, at = tasks[i]
        asked = text if rng.random() < 0.6 else f"how does the gripper move to {text}?"
        yield Question("task", asked, way(facts.hand, at))


def _looks(objects: Sequence[Located], rng: np.random.Generator) -> Iterator[Question]:
    """Ask for colour and shape."""
    painted = [obj for obj in objects if obj.colour and not obj.kind]
    for obj in _some(painted, 1, rng):
        yield Question("colour", f"what color is the {obj.name}?", obj.colour)
    toys = [obj for obj in objects if obj.kind]
    for toy in _some(toys, 1, rng):
        yield Question("shape", f"what shape is the {toy.colour} toy?", toy.kind)
        once = [other for other in toys if other.kind == toy.kind]
        if len(once) == 1:
            yield Question("colour", f"what color is the {toy.kind}?", toy.colour)


def _states(objects: Sequence[Located]) -> Iterator[Question]:
    for obj in objects:
        if obj.state is not None:
            low, high, _ = obj.state
            yield Question("state", f"is the {obj.name} {low} or {high}?", _said(*obj.state))


def _said(low: str, high: str, fraction: float) -> str:
    """Return the word for where a joint is."""
    if fraction < ENDS:
        return low
    return high if fraction > 1 - ENDS else "halfway"


def _existence(objects: Sequence[Located], rng: np.random.Generator) -> Iterator[Question]:
    """Ask for toys. About half of the answers are yes where there are any."""
    toys = {(toy.colour, toy.kind) for toy in objects if toy.kind}
    asked = (str(rng.choice(list(NAMED))), str(rng.choice(KINDS)))
    if toys and rng.random() < 0.5:
        asked = sorted(toys)[rng.integers(len(toys))]
    yield Question("exists", f"is there a {asked[0]} {asked[1]}?", "yes" if asked in toys else "no")


def _compare(
    objects: Sequence[Located], hand: Located, rng: np.random.Generator
) -> Iterator[Question]:
    if len(objects) < 2:
        return
    one, other = _some(objects, 2, rng)
    left = "yes" if one.pixel[0] < other.pixel[0] else "no"
    yield Question("relation", f"is {_named(one, rng)} to the left of {_named(other, rng)}?", left)
    if hand.visible:
        first, second = _named(one, rng), _named(other, rng)
        nearer = np.linalg.norm(one.point - hand.point) < np.linalg.norm(other.point - hand.point)
        question = f"which is closest to the gripper, {first} or {second}?"
        yield Question("relation", question, first if nearer else second)


def _count(objects: Sequence[Located]) -> Iterator[Question]:
    toys = sum(1 for obj in objects if obj.kind)
    yield Question("count", "how many toys are on the table?", str(toys))


def _hand(facts: Facts) -> Iterator[Question]:
    yield Question("hand", "where in the picture is the gripper?", cell(facts.hand.pixel))
    height = max(0.0, float(facts.hand.point[2]))
    yield Question("hand", "how high is the gripper?", f"{_distance(height)} cm")
    if facts.opening > 1 - ENDS or facts.opening < ENDS:
        opening = "open" if facts.opening > 0.5 else "closed"
        yield Question("hand", "is the gripper open or closed?", opening)


def _caption(objects: Sequence[Located], facts: Facts) -> Question:
    """Name the gripper, then everything else that is visible.

    Objects come in the order of their file, toys from left to right.
    """
    said = [f"the gripper at {cell(facts.hand.pixel)}"] if facts.hand.visible else []
    plain = [obj for obj in objects if not obj.kind]
    toys = sorted((obj for obj in objects if obj.kind), key=lambda toy: toy.pixel[0])
    for obj in (*plain, *toys):
        words = ("a", obj.colour, obj.name, "at", cell(obj.pixel))
        said.append(" ".join(word for word in words if word))
    return Question("caption", "describe the picture.", ", ".join(said) or "no object")
