"""The Franka Kitchen suite as data: five expert tasks, one more for RL, five unseen ones (the
paper's section V-A) and three to test with. Tune variants here alone.

Every variant is a skill of the expert tasks with another colour and another place of its object:
`docs/kitchen.md` has the measured rates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from irevla.tasks import Category, Task

CAMERA_POS = (-0.33, -0.93, 2.87)  # m
LOOK_AT = (-0.33, 0.58, 2.2)  # m
CONTROL_HZ = 25  # control steps per second of simulated time
ACTION_DIM = 7

RGB = tuple[float, float, float]
XYZ = tuple[float, float, float]


@dataclass(frozen=True)
class Skill:
    """What is to be done, and when it is done: the joint has gone past `goal`, seen from its rest
    at 0."""

    instruction: str
    joint: str  # of the kitchen; rad, or m for the slide door
    goal: float
    handle: str  # the site that the hand works on
    low: XYZ  # bounds of the kitchen's random shift, m
    high: XYZ


@dataclass(frozen=True)
class Variant:
    """What differs from the expert task. Empty: nothing."""

    recolour: Mapping[str, RGB] = field(default_factory=dict)  # material -> colour
    painted: Mapping[str, RGB] = field(default_factory=dict)  # body -> colour of all its shapes
    moved: Mapping[str, XYZ] = field(default_factory=dict)  # body -> shift, m


SKILLS: dict[str, Skill] = {
    "knob-on": Skill(
        instruction="turn the knob on",
        joint="knob_Joint_1",
        goal=-0.80,
        handle="knob1_site",
        low=(-0.08, -0.05, -0.02),
        high=(0.06, 0.05, 0.07),
    ),
    "light-on": Skill(
        instruction="turn the light on",
        joint="light_switch",
        goal=-0.50,
        handle="light_site",
        low=(-0.08, -0.05, -0.05),
        high=(0.08, 0.05, 0.05),
    ),
    "microwave-open": Skill(
        instruction="open the microwave",
        joint="microwave",
        goal=-0.60,
        handle="microhandle_site",
        low=(-0.08, -0.05, -0.05),
        high=(0.08, 0.05, 0.05),
    ),
    "slide-door-open": Skill(
        instruction="slide the door open",
        joint="slide_cabinet",
        goal=0.34,
        handle="slide_site",
        low=(-0.30, -0.14, -0.08),
        high=(0.16, 0.07, 0.08),
    ),
    "left-door-open": Skill(
        instruction="open the left door",
        joint="left_hinge_cabinet",
        goal=-0.60,
        handle="hinge_site1",
        low=(-0.04, -0.08, -0.05),
        high=(0.12, 0.02, 0.04),
    ),
}
"""Name -> skill. How far the kitchen is shifted is chosen so that the arm can reach, and a blind
policy cannot."""

RED = (0.80, 0.12, 0.10)
YELLOW = (0.90, 0.75, 0.10)
GREEN = (0.15, 0.60, 0.20)
DARK_RED = (0.45, 0.10, 0.10)
ORANGE = (0.85, 0.45, 0.10)

RL: dict[str, tuple[str, Variant]] = {  # name -> (skill, variant)
    "slide-door-open-red": (
        "slide-door-open",
        Variant({"M_slide_blue": RED}, moved={"slidecabinet": (-0.07, 0.015, 0.0)}),
    ),
}

UNSEEN: dict[str, tuple[str, Variant]] = {
    "slide-door-open-yellow": (
        "slide-door-open",
        Variant({"M_slide_blue": YELLOW}, moved={"slidecabinet": (0.03, -0.02, 0.0)}),
    ),
    "left-door-open-green": (
        "left-door-open",
        Variant({"M_hinge_blue": GREEN}, moved={"hingecabinet": (0.02, -0.02, -0.02)}),
    ),
    "microwave-open-red": (
        "microwave-open",
        Variant({"micro_black": DARK_RED}, moved={"microwave": (0.02, 0.01, 0.0)}),
    ),
    "knob-on-orange": (
        "knob-on",
        Variant(painted={"knob 1": ORANGE}, moved={"knob 1": (0.02, 0.0, 0.02)}),
    ),
    "light-on-green": (
        "light-on",
        Variant(
            painted={"lightswitchroot": GREEN, "lightswitchbaseroot": GREEN},
            moved={"lightswitchbaseroot": (0.02, 0.0, 0.01)},
        ),
    ),
}

TEST: dict[str, tuple[str, Variant]] = {
    "slide-door-open-orange": (
        "slide-door-open",
        Variant({"M_slide_blue": ORANGE}, moved={"slidecabinet": (-0.03, -0.02, 0.01)}),
    ),
    "left-door-open-yellow": (
        "left-door-open",
        Variant({"M_hinge_blue": YELLOW}, moved={"hingecabinet": (0.01, -0.01, 0.02)}),
    ),
    "light-on-red": (
        "light-on",
        Variant(
            painted={"lightswitchroot": RED, "lightswitchbaseroot": RED},
            moved={"lightswitchbaseroot": (-0.02, 0.0, -0.01)},
        ),
    ),
}


@dataclass(frozen=True)
class Spec:
    """A task and how it is made: a skill, changed by a variant."""

    task: Task
    skill: Skill
    script: str  # the name of the skill, whose scripted expert plays it
    variant: Variant


def _note(variant: Variant) -> str:
    changed = []
    if variant.recolour or variant.painted:
        changed.append("colour")
    if variant.moved:
        changed.append("position")
    return f"other {', '.join(changed)}" if changed else ""


def _specs() -> dict[str, Spec]:
    rows = [(skill, Category.EXPERT, skill, Variant()) for skill in SKILLS]
    rows += [(name, Category.RL, skill, variant) for name, (skill, variant) in RL.items()]
    rows += [(name, Category.UNSEEN, skill, variant) for name, (skill, variant) in UNSEEN.items()]
    rows += [(name, Category.TEST, skill, variant) for name, (skill, variant) in TEST.items()]
    return {
        name: Spec(
            task=Task(name, category, SKILLS[skill].instruction, _note(variant)),
            skill=SKILLS[skill],
            script=skill,
            variant=variant,
        )
        for name, category, skill, variant in rows
    }


SPECS: dict[str, Spec] = _specs()
