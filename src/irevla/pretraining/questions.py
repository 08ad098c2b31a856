"""Questions about a picture and their answers, from the facts of the scene. Every word is in the
tokenizer's vocabulary; positions are discretised."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from irevla.pretraining.palette import NAMED
from irevla.pretraining.scenes import KINDS, Facts, Seen

CELLS = 16  # columns and rows that a picture is divided into
DISTANCES = np.array([*range(21), 25, 30, 40, 45, 50, 60, 70, 80, 90, 100])  # cm that have a word
AXES = (
    ("left", "right"),
    ("back", "forward"),
    ("down", "up"),
)  # of the robot: x, y, z of the world
ENDS = 0.15  # a joint this near to one end (of its range) is said to be there


@dataclass(frozen=True)
class Question:
    """A question, its answer, and the family that it is counted in."""

    family: str
    text: str
    answer: str


def questions(facts: Facts, rng: np.random.Generator) -> list[Question]:
    """About a dozen different questions about one picture, of every family that applies."""
    seen = [thing for thing in facts.seen if thing.visible]
    parts = [part for part in facts.parts if part.visible]
    found = [*_places(seen, parts, rng), *_looks(seen, rng), *_states(seen), *_existence(seen, rng)]
    found += [*_compare(seen, facts.hand, rng), *_count(seen), _caption(seen, facts)]
    if facts.hand.visible:
        found += [*_hand(facts), *_motions(seen, parts, facts, rng)]
    return found


def motion(start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"]) -> str:
    """From one point to another in words, as "right 12 forward 5 down 8": cm along the axes of the
    robot."""
    words = []
    for (negative, positive), metres in zip(AXES, end - start, strict=True):
        words += [positive if metres >= 0 else negative, _distance(abs(metres))]
    return " ".join(words)


def way(hand: Seen, target: Seen) -> str:
    """From the gripper to a thing, as "column 9 row 5 to column 5 row 7: right 12 forward 5 down
    8"."""
    return f"{cell(hand.pixel)} to {cell(target.pixel)}: {motion(hand.point, target.point)}"


def cell(pixel: tuple[float, float]) -> str:
    """Where in the picture, as "column 5 row 11": counted from the top left, from 1."""
    column, row = (min(CELLS, 1 + int(CELLS * share)) for share in pixel)
    return f"column {column} row {row}"


def _distance(metres: float) -> str:
    return str(DISTANCES[np.abs(DISTANCES - 100 * metres).argmin()])


def _named(thing: Seen, rng: np.random.Generator) -> str:
    """How a thing is referred to. A toy always by its colour, which no other toy has."""
    colour = thing.colour if thing.kind or rng.random() < 0.5 else ""
    size = thing.size if thing.kind and rng.random() < 0.2 else ""
    return " ".join(word for word in ("the", size, colour, thing.name) if word)


def _some(items: Sequence[Seen], count: int, rng: np.random.Generator) -> list[Seen]:
    return [items[i] for i in rng.permutation(len(items))[:count]]


# --- families


def _places(
    seen: Sequence[Seen], parts: Sequence[Seen], rng: np.random.Generator
) -> Iterator[Question]:
    """Where things are in the picture."""
    for thing in _some([*seen, *parts], 2, rng):
        yield Question("place", f"where in the picture is {_named(thing, rng)}?", cell(thing.pixel))
    toys = [thing for thing in seen if thing.kind]
    for toy in _some(toys, 1, rng):
        yield Question("what", f"what is at {cell(toy.pixel)}?", f"a {toy.colour} {toy.name}")


def _motions(
    seen: Sequence[Seen], parts: Sequence[Seen], facts: Facts, rng: np.random.Generator
) -> Iterator[Question]:
    """How the gripper gets somewhere, in the picture and in the world: asked by name, or by what is
    to be done."""
    for thing in _some([*seen, *parts], 3, rng):
        yield Question(
            "motion", f"how does the gripper get to {_named(thing, rng)}?", way(facts.hand, thing)
        )
    tasks = [(text, at) for text, at in facts.tasks if at.visible]
    for i in rng.permutation(len(tasks))[:3]:
        text, at = tasks[i]
        asked = text if rng.random() < 0.6 else f"how does the gripper move to {text}?"
        yield Question("task", asked, way(facts.hand, at))


def _looks(seen: Sequence[Seen], rng: np.random.Generator) -> Iterator[Question]:
    """Colour and shape."""
    painted = [thing for thing in seen if thing.colour and not thing.kind]
    for thing in _some(painted, 1, rng):
        yield Question("colour", f"what color is the {thing.name}?", thing.colour)
    toys = [thing for thing in seen if thing.kind]
    for toy in _some(toys, 1, rng):
        yield Question("shape", f"what shape is the {toy.colour} toy?", toy.kind)
        once = [other for other in toys if other.kind == toy.kind]
        if len(once) == 1:
            yield Question("colour", f"what color is the {toy.kind}?", toy.colour)


def _states(seen: Sequence[Seen]) -> Iterator[Question]:
    for thing in seen:
        if thing.state is not None:
            low, high, fraction = thing.state
            answer = low if fraction < ENDS else high if fraction > 1 - ENDS else "halfway"
            yield Question("state", f"is the {thing.name} {low} or {high}?", answer)


def _existence(seen: Sequence[Seen], rng: np.random.Generator) -> Iterator[Question]:
    """Of toys. About half of the answers are yes where there are any."""
    toys = {(toy.colour, toy.kind) for toy in seen if toy.kind}
    asked = (str(rng.choice(list(NAMED))), str(rng.choice(KINDS)))
    if toys and rng.random() < 0.5:
        asked = sorted(toys)[rng.integers(len(toys))]
    yield Question("exists", f"is there a {asked[0]} {asked[1]}?", "yes" if asked in toys else "no")


def _compare(seen: Sequence[Seen], hand: Seen, rng: np.random.Generator) -> Iterator[Question]:
    if len(seen) < 2:
        return
    one, other = _some(seen, 2, rng)
    left = "yes" if one.pixel[0] < other.pixel[0] else "no"
    yield Question("relation", f"is {_named(one, rng)} to the left of {_named(other, rng)}?", left)
    if hand.visible:
        first, second = _named(one, rng), _named(other, rng)
        nearer = np.linalg.norm(one.point - hand.point) < np.linalg.norm(other.point - hand.point)
        question = f"which is closest to the gripper, {first} or {second}?"
        yield Question("relation", question, first if nearer else second)


def _count(seen: Sequence[Seen]) -> Iterator[Question]:
    toys = sum(1 for thing in seen if thing.kind)
    yield Question("count", "how many toys are on the table?", str(toys))


def _hand(facts: Facts) -> Iterator[Question]:
    yield Question("hand", "where in the picture is the gripper?", cell(facts.hand.pixel))
    yield Question(
        "hand", "how high is the gripper?", f"{_distance(max(0.0, float(facts.hand.point[2])))} cm"
    )
    if facts.opening > 1 - ENDS or facts.opening < ENDS:
        yield Question(
            "hand", "is the gripper open or closed?", "open" if facts.opening > 0.5 else "closed"
        )


def _caption(seen: Sequence[Seen], facts: Facts) -> Question:
    """The gripper, then everything else that is visible: things in the order of their file, toys
    from left to right."""
    words = [f"the gripper at {cell(facts.hand.pixel)}"] if facts.hand.visible else []
    for thing in sorted(
        seen, key=lambda thing: (thing.kind != "", thing.pixel[0] if thing.kind else 0.0)
    ):
        words.append(
            " ".join(
                word for word in ("a", thing.colour, thing.name, "at", cell(thing.pixel)) if word
            )
        )
    return Question("caption", "describe the picture.", ", ".join(words) or "no object")
