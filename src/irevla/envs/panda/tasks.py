"""The suite of the Panda on a table as data: the expert tasks of the paper's section V-D, two RL
tasks, five unseen ones and five to test with. Tune tasks here alone.

The experts pick up blocks of four colours; RL and unseen tasks are about things of other shapes.
`docs/panda-sim.md` has the measured rates.
"""

import math
from dataclasses import dataclass, replace

from irevla.tasks import Category, Task

CAMERA_POS = (1.25, 0.0, 0.72)  # m: in front of the arm
LOOK_AT = (0.43, -0.02, 0.08)  # m
FOVY = 34.0  # degrees
WRIST_POS = (0.06, -0.06, 0.09)  # m, in the last link
WRIST_LOOK_AT = (0.012, -0.012, 0.30)  # m, in the last link
WRIST_FOVY = 58.0  # degrees
WRIST_SHARE = 0.375  # of the picture's side, in its top left corner
CONTROL_HZ = 20  # control steps per second of simulated time
ACTION_DIM = 7
REACH = 0.04  # m of a full action; the real arm's is the same
TURN = 0.25  # rad; likewise

XY = tuple[float, float]
RGB = tuple[float, float, float]


@dataclass(frozen=True)
class TableObject:
    """A thing on the table. Its place is random, with nothing else within its room."""

    name: str  # of its body
    kind: str  # how it is made (`scene.py`)
    low: XY = (0.38, -0.22)  # bounds of its place, m; the arm stands at the origin, facing x
    high: XY = (0.62, 0.22)
    yaw: float = 0.0  # the middle of its direction, rad ...
    turn: float = math.pi / 4  # ... and how far it may be turned, to both sides
    room: float = 0.05  # radius, m
    paint: RGB | None = None  # in the place of its own colour


@dataclass(frozen=True)
class Spec:
    """A task and how it is made."""

    task: Task
    skill: str  # what success is (`goals.py`), and who plays it (`experts.py`)
    objects: tuple[TableObject, ...]
    target: str  # the body that the hand works on
    goal: str = ""  # the body that it is brought to
    joint: str = ""  # the joint that is moved


def _block(colour: str) -> TableObject:
    return TableObject(f"{colour} block", "block", turn=1.4, room=0.06)


def _vegetable(name: str, room: float) -> TableObject:
    return TableObject(name, "vegetable", turn=1.4, room=room)


BLOCKS = {colour: _block(colour) for colour in ("red", "blue", "green", "yellow")}
VEGETABLES = {
    name: _vegetable(name, room)
    for name, room in {
        "eggplant": 0.08,
        "carrot": 0.09,
        "pear": 0.07,
        "banana": 0.08,
        "potato": 0.06,
        "corn": 0.09,
        "mushroom": 0.05,
        "cucumber": 0.09,
        "lemon": 0.06,
        "strawberry": 0.05,
    }.items()
}
RL = ("eggplant", "carrot")
TEST = ("cucumber", "lemon", "strawberry")
GREEN = (0.10, 0.62, 0.22)
PURPLE = (0.50, 0.20, 0.60)
TRAY = TableObject("tray", "tray", turn=0.5, room=0.10)
BUTTON = TableObject("button", "button", turn=math.pi / 4, room=0.08)
DRAWER = TableObject(
    "cabinet", "drawer", low=(0.40, 0.12), high=(0.58, 0.26), yaw=-math.pi / 2, turn=0.35, room=0.12
)
CABLE = TableObject(
    "anchor", "cable", low=(0.46, -0.24), high=(0.56, -0.10), yaw=math.pi / 2, turn=0.15, room=0.10
)


TWO = (BLOCKS["blue"], BLOCKS["yellow"])


def _pick(thing: TableObject, category: Category, others: tuple[TableObject, ...]) -> Spec:
    name = f"pick-{thing.name.replace(' ', '-')}"
    note = "another shape" if category is not Category.EXPERT else ""
    return Spec(
        task=Task(name, category, f"pick up the {thing.name}", note),
        skill="pick",
        objects=(thing, *others),
        target=thing.name,
    )


def _press(button: TableObject, category: Category, name: str = "button-press") -> Spec:
    return Spec(
        task=Task(name, category, "press the button", "other colour" if button.paint else ""),
        skill="press",
        objects=(button, *TWO),
        target="plunger",
        joint="plunger",
    )


def _pull(cabinet: TableObject, category: Category, name: str = "drawer-open") -> Spec:
    return Spec(
        task=Task(name, category, "open the drawer", "other colour" if cabinet.paint else ""),
        skill="pull",
        objects=(cabinet,),
        target="handle",
        joint="drawer",
    )


def _specs() -> tuple[Spec, ...]:
    rows = [
        _pick(block, Category.EXPERT, tuple(b for b in BLOCKS.values() if b != block))
        for block in BLOCKS.values()
    ]
    rows += [
        Spec(
            task=Task("place-block", Category.EXPERT, "put the red block into the tray"),
            skill="place",
            objects=(TRAY, BLOCKS["red"], BLOCKS["blue"]),
            target="red block",
            goal="tray",
        ),
        _press(BUTTON, Category.EXPERT),
        _pull(DRAWER, Category.EXPERT),
        Spec(
            task=Task("cable-route", Category.EXPERT, "put the cable through the slot"),
            skill="route",
            objects=(CABLE,),
            target="plug",
            goal="slot",
        ),
    ]
    category = dict.fromkeys(RL, Category.RL) | dict.fromkeys(TEST, Category.TEST)
    rows += [
        _pick(thing, category.get(name, Category.UNSEEN), TWO) for name, thing in VEGETABLES.items()
    ]
    return (
        *rows,
        _press(replace(BUTTON, paint=GREEN), Category.TEST, "button-press-green"),
        _pull(replace(DRAWER, paint=PURPLE), Category.TEST, "drawer-open-purple"),
    )


SPECS: dict[str, Spec] = {spec.task.name: spec for spec in _specs()}
