"""What stands on the table, as data: the scene files of Meta-World's package, and what can be said
about each.

Names are words of the tokenizer's vocabulary. Every thing has a place that can be pointed at; a
thing may have parts, a joint whose position has words, and instructions with the place that the
hand goes to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

XYZ = tuple[float, float, float]


@dataclass(frozen=True)
class Place:
    """A point that moves with something: the `kind` ("site", "geom", "body") called `name`, and an
    offset in the world, m."""

    kind: str
    name: str
    offset: XYZ = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Joint:
    """A sliding or turning joint: the body that has it, its range, and the words for its two
    ends."""

    body: str
    low: float
    high: float
    at_low: str
    at_high: str


@dataclass(frozen=True)
class Thing:
    """One object of a scene. `place` is what "where is the NAME" asks for."""

    name: str
    body: str  # its root: moved over the table
    place: Place
    material: str = ""  # the one whose colour it is called by; empty: its colour is not spoken of
    parts: Mapping[str, Place] = field(default_factory=dict)
    joint: Joint | None = None
    tasks: Mapping[str, Place] = field(default_factory=dict)  # instruction -> where the hand goes
    low: XYZ = (
        -0.30,
        0.60,
        0.0,
    )  # range of the root's position, m: x and y in the world, z added to where it stands
    high: XYZ = (0.30, 0.88, 0.0)


@dataclass(frozen=True)
class SceneFile:
    """One model of Meta-World. `skills`: the benchmark's skills that are played in it."""

    name: str
    things: tuple[Thing, ...]
    skills: tuple[str, ...] = ()
    goal: bool = False  # whether the marker of a goal is spoken of, and so always shown


def _site(name: str) -> Place:
    return Place("site", name)


def _body(name: str, x: float | int = 0, y: float | int = 0, z: float | int = 0) -> Place:
    return Place("body", name, (float(x), float(y), float(z)))


def _geom(name: str) -> Place:
    return Place("geom", name)


# fmt: off
def _button(name: str, instructions: tuple[str, ...], skills: tuple[str, ...], *more: Thing) -> SceneFile:
    at, joint = _site("buttonStart"), Joint("button", -0.06, 0.0, "pressed", "released")
    button = Thing("button", "box", at, "btn_yellow", {"button box": _site("hole")}, joint,
                   dict.fromkeys(instructions, at))
    return SceneFile(name, (button, *more), skills)


_MUG, _PUCK, _DOOR, _DRAWER = _geom("mug"), _geom("puck"), _geom("handle"), _geom("objGeom")
_PRESS, _GOAL = _site("handleStart"), _body("puck_goal", 0, 0, 0.05)
_WALL = Thing("wall", "wall", _body("wall"), "wall_brick", high=(0.30, 0.75, 0.0))
_NEAR, _FAR = (-0.30, 0.50, 0.0), (0.30, 0.95, 0.0)  # more of the table than the default range

SCENES: tuple[SceneFile, ...] = (
    _button("sawyer_button_press", ("press the button", "push the button"), ("button-press",)),
    _button("sawyer_button_press_topdown", ("press the button from above", "push the button down"),
            ("button-press-topdown",)),
    _button("sawyer_button_press_wall", ("press the button behind the wall",), ("button-press-wall",), _WALL),
    _button("sawyer_button_press_topdown_wall", ("press the button behind the wall from above",),
            ("button-press-topdown-wall",), _WALL),
    SceneFile("sawyer_coffee", (
        Thing("coffee machine", "coffee_machine", _body("coffeemachine", 0, -0.1, 0.15), "cmred",
              {"button of the coffee machine": _site("buttonStart")},
              tasks={"press the button of the coffee machine": _site("buttonStart")}),
        Thing("mug", "obj", _MUG, "cmwhite", low=(-0.30, 0.50, -0.1), high=(0.30, 0.75, -0.1),
              tasks={"push the mug under the coffee machine": _MUG, "pull the mug": _MUG, "pick up the mug": _MUG}),
    ), ("coffee-button", "coffee-push")),
    SceneFile("sawyer_dial", (
        Thing("dial", "dial", _body("dial", 0, 0, 0.05), "dial_red",
              tasks={"turn the dial": _site("dialStart"), "rotate the dial": _site("dialStart")}),
    ), ("dial-turn",)),
    SceneFile("sawyer_door_lock", (
        Thing("lock", "door", _body("lock_link"), "dl_metal2", {"door": _body("doorlockA")},
              Joint("lock_link", 0.0, 1.57, "unlocked", "locked"),
              {"lock the door": _site("lockStartLock"), "unlock the door": _site("lockStartUnlock")}),
    ), ("door-lock", "door-unlock")),
    SceneFile("sawyer_door_pull", (
        Thing("door", "door", _body("doorlockB"), "dl_metal2", {"handle of the door": _DOOR},
              Joint("door_link", -1.5, 0.0, "open", "closed"),
              {"open the door": _DOOR, "close the door": _DOOR, "pull the door open": _DOOR},
              low=(-0.20, 0.75, 0.0), high=(0.30, 0.98, 0.0)),
    ), ("door-open", "door-close")),
    SceneFile("sawyer_drawer", (
        Thing("drawer", "drawer", _body("drawercase_link"), "drawer_beige", {"handle of the drawer": _DRAWER},
              Joint("drawer_link", -0.16, 0.0, "open", "closed"),
              {"open the drawer": _DRAWER, "close the drawer": _DRAWER, "pull the drawer open": _DRAWER},
              low=(-0.30, 0.75, 0.0), high=_FAR),
    ), ("drawer-open", "drawer-close")),
    SceneFile("sawyer_faucet", (
        Thing("faucet", "faucetBase", _body("faucet_link", 0, 0, 0.1), "faucet_metal",
              {"handle of the faucet": _site("handleStartOpen")},
              Joint("faucet_link2", -1.57, 1.57, "left", "right"),
              {"open the faucet": _site("handleStartOpen"), "close the faucet": _site("handleStartClose"),
               "turn the faucet": _site("handleStartOpen")}),
    ), ("faucet-open", "faucet-close")),
    SceneFile("sawyer_handle_press", (
        Thing("handle", "box", _PRESS, "hdlprs_metal0", {"base of the handle": _body("hdlprs", 0, 0, 0.1)},
              Joint("handle_link", -0.1, 0.0, "down", "up"),
              {"press the handle down": _PRESS, "push the handle down": _PRESS,
               "pull the handle up": _site("handleRight")},
              low=(-0.30, 0.70, 0.0), high=_FAR),
    ), ("handle-press",)),
    SceneFile("sawyer_handle_press_sideways", (
        Thing("handle", "box", _PRESS, "hdlprs_metal0", {"base of the handle": _body("hdlprs", 0, 0, 0.1)},
              Joint("handle_link", -0.1, 0.0, "down", "up"),
              {"press the handle down from the side": _PRESS, "pull the handle up": _site("handleRight")},
              low=(-0.45, 0.45, 0.0), high=(-0.15, 0.80, 0.0)),
    ), ("handle-press-side", "handle-pull")),
    SceneFile("sawyer_plate_slide", (
        Thing("plate", "puck_channel", _PUCK, "puck_black",
              tasks={"slide the plate into the goal": _PUCK, "slide the plate back out of the goal": _PUCK},
              low=_NEAR, high=(0.30, 0.80, 0.0)),
        Thing("goal", "puck_goal", _GOAL, "puck_red", low=(-0.30, 0.80, 0.0)),
    ), ("plate-slide", "plate-slide-back")),
    SceneFile("sawyer_plate_slide_sideway", (
        Thing("plate", "puck_channel", _PUCK, "puck_black",
              tasks={"slide the plate sideways into the goal": _PUCK,
                     "slide the plate sideways out of the goal": _PUCK},
              low=(-0.30, 0.45, 0.0), high=(0.30, 0.80, 0.0)),
        Thing("goal", "puck_goal", _GOAL, "puck_red", low=(-0.40, 0.45, 0.0), high=(-0.15, 0.80, 0.0)),
    ), ("plate-slide-side", "plate-slide-back-side")),
    SceneFile("sawyer_reach_wall_v3", (
        Thing("goal", "obj", _site("goal"), low=_NEAR,
              tasks={"reach the goal behind the wall": _site("goal"), "reach the goal": _site("goal")}),
        Thing("wall", "wall", _body("wall"), "wall_brick", high=(0.30, 0.80, 0.0)),
    ), ("reach-wall",), goal=True),
    SceneFile("sawyer_window_horizontal", (
        Thing("window", "window", _body("window"), "window_red", {"handle of the window": _site("handleOpenStart")},
              Joint("windowb_a", 0.0, 0.2, "closed", "open"),
              {"open the window": _site("handleOpenStart"), "close the window": _site("handleCloseStart"),
               "slide the window": _site("handleOpenStart")},
              low=(-0.30, 0.65, -0.04), high=(0.25, 0.92, 0.02)),
    ), ("window-open", "window-close")),
    # What follows is in no task of the benchmark: more shapes to speak about. sawyer_window is left
    # out: its frame is green, which is held out for windows.
    SceneFile("sawyer_assembly_peg", (
        Thing("wrench", "RoundNut", _body("RoundNut"), "asmbly_green", {"handle of the wrench": _site("RoundNut-8")},
              tasks={"pick up the wrench": _site("RoundNut-8")}, low=_NEAR),
        Thing("peg", "peg", _site("pegTop"), "asmbly_metal"),
    )),
    SceneFile("sawyer_basketball", (
        Thing("basketball", "bsktball", _body("bsktball"), "bskt_orange",
              tasks={"pick up the basketball": _body("bsktball")}, low=_NEAR),
        Thing("hoop", "basket_goal", _body("hooplink"), "bskt_red", low=(-0.30, 0.80, 0.0), high=_FAR),
    )),
    SceneFile("sawyer_box", (
        Thing("box", "boxbody", _body("box", 0, 0, 0.03), "box_wood"),
        Thing("lid", "boxbodytop", _geom("BoxHandleGeom"), "box_metal",
              tasks={"grasp the lid": _geom("BoxHandleGeom")}, low=(-0.30, 0.50, -0.05), high=(0.30, 0.90, 0.10)),
    )),
    SceneFile("sawyer_hammer", (
        Thing("hammer", "hammerbody", _geom("HammerHead"), "hmr_red", {"handle of the hammer": _geom("HammerHandle")},
              tasks={"pick up the hammer": _geom("HammerHandle")}, low=(-0.30, 0.45, 0.0), high=(0.20, 0.75, 0.0)),
        Thing("nail", "box", _site("nailHead"), "hmr_wood", low=(-0.30, 0.80, 0.0), high=_FAR),
    )),
    SceneFile("sawyer_laptop", (
        Thing("laptop", "laptop", _body("laptop", 0, 0, 0.03), "laptop_grey",
              joint=Joint("laptoplid_link", 0.0, 1.57, "open", "closed"),
              tasks={"close the laptop": _site("laptop_site")}),
    )),
    SceneFile("sawyer_lever_pull", (
        Thing("lever", "lever", _site("leverStart"), "lever_blue", tasks={"pull the lever": _site("leverStart")},
              low=(-0.30, 0.70, 0.0), high=(0.25, 0.95, 0.0)),
    )),
    SceneFile("sawyer_peg_unplug_side", (
        Thing("plug", "plug1", _site("pegEnd"), "plug_black",
              tasks={"unplug the plug": _site("pegEnd"), "grasp the plug": _site("pegEnd")},
              low=(-0.30, 0.50, -0.08), high=(0.20, 0.85, 0.05)),
        Thing("socket", "box", _site("hole"), "plug_plast", low=(-0.45, 0.50, 0.0), high=(-0.2, 0.85, 0.0)),
    )),
    SceneFile("sawyer_shelf_placing", (
        Thing("shelf", "shelf", _body("shelf", 0, 0, 0.3), "shelf_wood", low=(-0.30, 0.75, 0.0)),
        Thing("block", "obj", _body("obj"), tasks={"pick up the block": _body("obj")},
              low=(-0.30, 0.45, 0.0), high=(0.30, 0.65, 0.0)),
    )),
    SceneFile("sawyer_soccer", (
        Thing("soccer ball", "soccer_ball", _body("soccer_ball"), tasks={"kick the soccer ball": _body("soccer_ball")},
              low=(-0.30, 0.45, 0.0), high=(0.30, 0.75, 0.0)),
        Thing("goal", "goal_whole", _body("goal_whole", 0, 0, 0.08), "soccer_blue",
              low=(-0.30, 0.80, 0.0), high=_FAR),
    )),
    SceneFile("sawyer_stick_obj", (
        Thing("stick", "stick", _body("stick"), "stick_blue", tasks={"pick up the stick": _body("stick")}, low=_NEAR),
        Thing("bottle", "object", _site("insertion"), "therm_metal_green",
              tasks={"push the bottle": _site("insertion")}),
    )),
    SceneFile("sawyer_pick_place_v3", ()),  # the table, the arm, and toys alone
    SceneFile("sawyer_table_with_hole", ()),
)
# fmt: on
