"""The Meta-World suite as data: 25 expert tasks, 5 RL tasks, 10 unseen ones (the paper's section
V-A) and 4 to test with. Tune variants here alone.

Expert tasks are those whose goal can be seen in the image and whose scripted expert solves at
least 90 % within the horizon. Every other task is a skill of them with other colours, another shape
and other places: `docs/metaworld.md` has the measured rates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from irevla.tasks import Category, Task

CAMERA = "corner2"
CAMERA_POS = (0.75, 0.075, 0.7)  # m: nearer than stock, so that objects fill a small image
CONTROL_HZ = 80  # stock control steps per second of simulated time
ACTION_DIM = 4

RGB = tuple[float, float, float]
XYZ = tuple[float, float, float]


@dataclass(frozen=True)
class Handle:
    """A new shape for the part that the hand works on: collision geoms are changed, and these same
    shapes are drawn."""

    body: str  # the body whose collision capsules and cylinders change
    colour: RGB  # they are drawn in this colour
    thickness: float  # factor of their radius
    boxy: bool = False  # boxes instead
    hidden: tuple[str, ...] = ()  # meshes of the body that they stand in for
    kinds: tuple[str, ...] = ("capsule", "cylinder")  # which of the geoms change


@dataclass(frozen=True)
class Variant:
    """What differs from the stock task. Empty: nothing. `low` and `high` bound the object's random
    start, m, in place of the stock.
    """

    recolour: Mapping[str, RGB] = field(default_factory=dict)  # material -> colour
    handle: Handle | None = None
    low: XYZ | None = None
    high: XYZ | None = None


EXPERT: dict[str, str] = {  # skill -> instruction
    "button-press": "press the button",
    "button-press-topdown": "press the button from above",
    "button-press-topdown-wall": "press the button behind the wall from above",
    "button-press-wall": "press the button behind the wall",
    "coffee-button": "press the button of the coffee machine",
    "coffee-push": "push the mug under the coffee machine",
    "dial-turn": "turn the dial",
    "door-close": "close the door",
    "door-lock": "lock the door",
    "door-open": "open the door",
    "door-unlock": "unlock the door",
    "drawer-close": "close the drawer",
    "drawer-open": "open the drawer",
    "faucet-close": "close the faucet",
    "faucet-open": "open the faucet",
    "handle-press": "press the handle down",
    "handle-press-side": "press the handle down from the side",
    "handle-pull": "pull the handle up",
    "plate-slide": "slide the plate into the goal",
    "plate-slide-back": "slide the plate back out of the goal",
    "plate-slide-back-side": "slide the plate sideways out of the goal",
    "plate-slide-side": "slide the plate sideways into the goal",
    "reach-wall": "reach the goal behind the wall",
    "window-close": "close the window",
    "window-open": "open the window",
}

BLUE = (0.1, 0.3, 0.8)
GREEN = (0.1, 0.55, 0.2)
ORANGE = (0.85, 0.45, 0.1)
PURPLE = (0.5, 0.2, 0.6)
YELLOW = (0.8, 0.7, 0.1)
TEAL = (0.1, 0.55, 0.55)
PINK = (0.8, 0.35, 0.5)
WHITE = (0.85, 0.85, 0.85)
DARK = (0.15, 0.15, 0.2)


def _button(colour: RGB, thickness: float, boxy: bool = False) -> Handle:
    return Handle("button", colour, thickness, boxy, hidden=("stopbutton", "stopbuttonrod"))


def _door(colour: RGB, thickness: float, boxy: bool = False) -> Handle:
    return Handle("door_link", colour, thickness, boxy, hidden=("door_handle", "handle_base"))


def _drawer(colour: RGB, thickness: float, boxy: bool = False) -> Handle:
    return Handle("drawer_link", colour, thickness, boxy, hidden=("drawerhandle",))


def _faucet(colour: RGB, thickness: float, boxy: bool = False) -> Handle:
    return Handle("faucet_link2", colour, thickness, boxy, kinds=("capsule",))


def _press(colour: RGB, thickness: float, boxy: bool = False) -> Handle:
    return Handle(
        "handle_link", colour, thickness, boxy, hidden=("handle_press_grip",), kinds=("cylinder",)
    )


def _window(colour: RGB, thickness: float, boxy: bool = False) -> Handle:
    return Handle("windowb_a", colour, thickness, boxy)


RL: dict[str, tuple[str, Variant]] = {  # name -> (skill, variant)
    "button-press-new": (
        "button-press",
        Variant(
            {"btn_yellow": GREEN}, _button(BLUE, 1.1), (-0.35, 0.78, 0.115), (0.35, 0.9, 0.115)
        ),
    ),
    "drawer-open-new": (
        "drawer-open",
        Variant(
            {"drawer_beige": (0.5, 0.45, 0.75)},
            _drawer(DARK, 1.4, True),
            (-0.25, 0.8, 0.0),
            (0.25, 0.95, 0.0),
        ),
    ),
    "door-open-new": (
        "door-open",
        Variant(
            {"dl_metal2": (0.4, 0.3, 0.15)},
            _door(YELLOW, 1.15),
            (0.02, 0.72, 0.15),
            (0.27, 0.95, 0.15),
        ),
    ),
    "window-open-new": (
        "window-open",
        Variant(
            {"window_red": GREEN}, _window(WHITE, 1.5, True), (-0.3, 0.65, 0.16), (0.3, 0.95, 0.16)
        ),
    ),
    "window-close-new": (
        "window-close",
        Variant(
            {"window_red": BLUE}, _window(ORANGE, 1.5, True), (-0.38, 0.62, 0.2), (0.22, 0.92, 0.2)
        ),
    ),
}

UNSEEN: dict[str, tuple[str, Variant]] = {
    "button-press-orange": (
        "button-press",
        Variant(
            {"btn_yellow": DARK}, _button(ORANGE, 1.1), (-0.35, 0.78, 0.115), (0.35, 0.9, 0.115)
        ),
    ),
    "button-press-topdown-teal": (
        "button-press-topdown",
        Variant(
            {"btn_yellow": TEAL},
            _button(WHITE, 1.3, True),
            (-0.25, 0.75, 0.115),
            (0.25, 0.9, 0.115),
        ),
    ),
    "door-open-teal": (
        "door-open",
        Variant(
            {"dl_metal2": (0.2, 0.4, 0.4)},
            _door(ORANGE, 1.15),
            (0.02, 0.72, 0.15),
            (0.27, 0.95, 0.15),
        ),
    ),
    "drawer-close-pink": (
        "drawer-close",
        Variant(
            {"drawer_beige": PINK}, _drawer(DARK, 1.3, True), (-0.38, 0.72, 0.0), (0.38, 0.935, 0.0)
        ),
    ),
    "drawer-open-orange": (
        "drawer-open",
        Variant({"drawer_beige": ORANGE}, _drawer(BLUE, 1.3), (-0.25, 0.8, 0.0), (0.25, 0.95, 0.0)),
    ),
    "faucet-close-blue": (
        "faucet-close",
        Variant(
            {"faucet_metal": TEAL}, _faucet(BLUE, 1.2, True), (-0.3, 0.7, 0.0), (0.3, 0.88, 0.0)
        ),
    ),
    "faucet-open-purple": (
        "faucet-open",
        Variant({"faucet_metal": GREEN}, _faucet(PURPLE, 1.2), (-0.3, 0.7, 0.0), (0.3, 0.88, 0.0)),
    ),
    "handle-press-green": (
        "handle-press",
        Variant(
            {"hdlprs_metal0": BLUE},
            _press(GREEN, 1.3, True),
            (-0.3, 0.75, -0.001),
            (0.3, 0.9, 0.001),
        ),
    ),
    "window-close-purple": (
        "window-close",
        Variant(
            {"window_red": PURPLE}, _window(YELLOW, 1.4), (-0.38, 0.62, 0.2), (0.22, 0.92, 0.2)
        ),
    ),
    "window-open-yellow": (
        "window-open",
        Variant({"window_red": YELLOW}, _window(BLUE, 1.4), (-0.3, 0.65, 0.16), (0.3, 0.95, 0.16)),
    ),
}

TEST: dict[str, tuple[str, Variant]] = {
    "button-press-topdown-pink": (
        "button-press-topdown",
        Variant(
            {"btn_yellow": PINK}, _button(GREEN, 1.3), (-0.25, 0.75, 0.115), (0.25, 0.9, 0.115)
        ),
    ),
    "door-open-white": (
        "door-open",
        Variant({"dl_metal2": WHITE}, _door(PURPLE, 1.15), (0.02, 0.72, 0.15), (0.27, 0.95, 0.15)),
    ),
    "faucet-close-yellow": (
        "faucet-close",
        Variant({"faucet_metal": YELLOW}, _faucet(DARK, 1.2), (-0.3, 0.7, 0.0), (0.3, 0.88, 0.0)),
    ),
    "window-open-teal": (
        "window-open",
        Variant(
            {"window_red": TEAL}, _window(PINK, 1.4, True), (-0.3, 0.65, 0.16), (0.3, 0.95, 0.16)
        ),
    ),
}


@dataclass(frozen=True)
class Spec:
    """A task and how it is made: the Meta-World environment of a skill, changed by a variant."""

    task: Task
    skill: str
    variant: Variant


def _note(variant: Variant) -> str:
    changed = [
        "colour",
        *(["handle"] if variant.handle else []),
        *(["position"] if variant.low else []),
    ]
    return f"other {', '.join(changed)}" if variant != Variant() else ""


def _specs() -> dict[str, Spec]:
    rows = [(skill, Category.EXPERT, skill, Variant()) for skill in EXPERT]
    rows += [(name, Category.RL, skill, variant) for name, (skill, variant) in RL.items()]
    rows += [(name, Category.UNSEEN, skill, variant) for name, (skill, variant) in UNSEEN.items()]
    rows += [(name, Category.TEST, skill, variant) for name, (skill, variant) in TEST.items()]
    return {
        name: Spec(Task(name, category, EXPERT[skill], _note(variant)), skill, variant)
        for name, category, skill, variant in rows
    }


SPECS: dict[str, Spec] = _specs()
