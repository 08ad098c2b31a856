"""Procedural scenes: the arm over a table, what stands on it, toys beside it; painted, lit and seen
at random.

A `Stage` is one compiled model. `dress` paints and lights it and chooses the camera; `pose` moves
all that can move. Both are functions of the random generator alone. Nothing is simulated: positions
are set, and kinematics do the rest.
"""

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from irevla.errors import UserError
from irevla.pretraining import palette
from irevla.pretraining.arm import Arm
from irevla.pretraining.palette import RGB
from irevla.pretraining.props import SCENES, Place, SceneFile
from irevla.pretraining.view import View, random_view, usual_view

TOYS = 3  # toys that a model holds, shown or not
SURROUNDINGS = ("table_wood", "wall_metal", "basic_floor")
PLAIN = (
    0.4  # share of the appearances without paint, toys or other views: the easy half of the lesson
)
PAINTED = 0.75  # share of the others in which a material of a thing gets a new colour
HIDDEN = 0.0  # alpha
KINDS = ("cube", "bar", "ball", "cylinder", "disk", "egg")  # of toys


@dataclass(frozen=True)
class Seen:
    """Something that can be spoken of: where it is (m, in the world) and in the picture (column and
    row, 0..1)."""

    name: str
    point: Float[np.ndarray, "3"]
    pixel: tuple[float, float]
    colour: str = ""  # empty: not to be spoken of
    kind: str = ""  # of a toy; empty for the things of the scene file
    size: str = ""  # "big" or "small", of a toy
    state: tuple[str, str, float] | None = None  # words of both ends, and where between them, 0..1

    @property
    def visible(self) -> bool:
        """Whether it is inside the picture; something else may still stand before it."""
        return 0 <= self.pixel[0] < 1 and 0 <= self.pixel[1] < 1


@dataclass(frozen=True)
class Facts:
    """All that is true of one picture."""

    scene: str  # the scene file's name
    seen: tuple[Seen, ...]
    parts: tuple[Seen, ...]
    hand: Seen
    opening: float  # of the gripper, 0..1
    tasks: tuple[tuple[str, Seen], ...]  # an instruction, and where the hand goes


@dataclass
class Toy:
    """How one toy looks in the present appearance."""

    kind: str = ""  # empty: not shown
    colour: str = ""
    size: str = ""
    height: float = 0.0  # of its middle above the table, m


@dataclass
class Appearance:
    """What `dress` chose."""

    view: View
    colours: dict[str, str] = field(
        default_factory=dict
    )  # material -> name of its colour, where it was painted
    paint: dict[str, RGB] = field(default_factory=dict)  # material -> colour
    toys: list[Toy] = field(default_factory=list)


def models_folder() -> Path:
    """Where the installed Meta-World keeps its models. `UserError` where there is none."""
    found = importlib.util.find_spec("metaworld")
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "the scenes are built from Meta-World's models: pip install 'irevla[metaworld]'"
        )
    return Path(found.submodule_search_locations[0]) / "assets" / "sawyer_xyz"


class Stage:
    """One compiled model, with toys."""

    def __init__(self, scene: SceneFile) -> None:
        from irevla.envs import render  # first of all: it chooses the GL library

        import mujoco  # isort: skip

        self.scene = scene
        self._mujoco, self._render = mujoco, render
        spec = mujoco.MjSpec.from_file(str(models_folder() / f"{scene.name}.xml"))
        for number in range(TOYS):
            _add_toy(spec, number)
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.arm = Arm(self.model)
        self._stock = _Stock(self.model)
        self.materials = {thing.name: _materials(self.model, thing.body) for thing in scene.things}
        self.appearance: Appearance | None = None
        self._renderer: Any = None

    def dress(self, rng: np.random.Generator) -> Appearance:
        """Paint and light the scene anew, choose its toys and its camera."""
        self._stock.restore(self.model)
        plain = bool(self.scene.things and rng.random() < PLAIN)
        chosen = Appearance(usual_view(self.model) if plain else random_view(self.model, rng))
        if not plain:
            self._paint_things(chosen, rng)
            self._paint_surroundings(rng)
            self._light(rng)
            self._choose_toys(chosen, rng)
        if not self.scene.goal and rng.random() < 0.5:
            self.model.site_rgba[:, 3] = HIDDEN  # the markers of goals
        self.appearance = chosen
        self._renderer = self._render.Renderer(self.model, camera=chosen.view.camera)
        return chosen

    def pose(self, rng: np.random.Generator) -> Facts:
        """Move what can move: roots, joints, toys and the arm; often the hand is near something to
        be reached."""
        places = self._place_things(rng)
        fractions = self._turn_joints(rng)
        self._place_toys(rng, places)
        self._mujoco.mj_kinematics(self.model, self.data)
        targets = [
            self._point(place) for thing in self.scene.things for place in thing.tasks.values()
        ]
        opening = self.arm.pose(self.model, self.data, rng, near=targets)
        return self._facts(fractions, opening)

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The present scene, as the view hangs it."""
        assert self.appearance is not None, "dress first"
        drawn: np.ndarray = self._renderer.draw(self.model, self.data, size=size)
        return self.appearance.view.hang(drawn)

    # --- appearance

    def _paint_things(self, chosen: Appearance, rng: np.random.Generator) -> None:
        for materials in self.materials.values():
            avoid = palette.held_out(materials)
            for material in materials:
                if rng.random() < PAINTED:
                    chosen.colours[material], chosen.paint[material] = palette.draw(rng, avoid)
                    self._paint(material, chosen.paint[material])

    def _paint(self, material: str, rgb: RGB) -> None:
        index = self.model.mat(material).id
        self.model.mat_texid[index] = -1
        self.model.mat_rgba[index, :3] = rgb

    def _paint_surroundings(self, rng: np.random.Generator) -> None:
        model = self.model
        here = {model.mat(i).name for i in range(model.nmat)}
        for material in SURROUNDINGS:
            if material in here and rng.random() < 0.5:
                self._paint(material, _muted(rng))
        if rng.random() < 0.5:
            for texture in np.flatnonzero(
                model.tex_type == self._mujoco.mjtTexture.mjTEXTURE_SKYBOX
            ):
                start, channels = model.tex_adr[texture], model.tex_nchannel[texture]
                count = model.tex_height[texture] * model.tex_width[texture]
                sky = (255 * np.array(_muted(rng))).astype(np.uint8)
                model.tex_data[start : start + count * channels].reshape(count, channels)[:, :3] = (
                    sky
                )

    def _light(self, rng: np.random.Generator) -> None:
        if rng.random() < 0.3:
            return  # as in the stock scene
        model = self.model
        model.vis.headlight.ambient[:] = rng.uniform(0.25, 0.55)
        model.vis.headlight.diffuse[:] = rng.uniform(0.25, 0.55)
        model.light_diffuse[:] = rng.uniform(0.1, 0.5, (model.nlight, 1))
        model.light_pos[:] += rng.uniform(-0.7, 0.7, (model.nlight, 3))

    def _choose_toys(self, chosen: Appearance, rng: np.random.Generator) -> None:
        fewest = 0 if self.scene.things else 1
        shown = int(rng.integers(fewest, TOYS + 1))
        colours: set[str] = set()
        for number in range(TOYS):
            toy = Toy()
            if number < shown:
                toy = _random_toy(rng)
                while toy.colour == "" or toy.colour in colours:
                    toy.colour, rgb = palette.draw(rng)
                colours.add(toy.colour)
                size = _dimensions(toy, rng)
                toy.height = size[-1]
                self._show_toy(number, toy, size, rgb)
            chosen.toys.append(toy)

    def _show_toy(self, number: int, toy: Toy, size: tuple[float, ...], rgb: RGB) -> None:
        geom = self.model.geom(f"toy{number} {_shape_of(toy.kind)}").id
        self.model.geom_rgba[geom] = [*rgb, 1.0]
        self.model.geom_size[geom, : len(size)] = size if len(size) == 3 else (size[0], size[1])

    # --- state

    def _place_things(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Roots within their ranges, far enough from each other."""
        placed: list[np.ndarray] = []
        for thing in self.scene.things:
            body = self.model.body(thing.body).id
            rest = self._stock.body_pos[body]
            for _ in range(20):
                offset = rng.uniform(thing.low, thing.high)
                position = np.array([offset[0], offset[1], rest[2] + offset[2]])
                if all(np.linalg.norm(position[:2] - other[:2]) > 0.17 for other in placed):
                    break
            placed.append(position)
            self._move(body, position)
        goals = [i for i in range(self.model.nsite) if self.model.site(i).name == "goal"]
        for site in goals:  # where the stock task hides a target, it may be anywhere over the table
            if self.model.site_bodyid[site] == 0:
                self.model.site_pos[site] = rng.uniform([-0.3, 0.5, 0.05], [0.3, 0.9, 0.35])
        return placed

    def _move(self, body: int, position: np.ndarray) -> None:
        joint = int(self.model.body_jntadr[body])
        if joint >= 0 and self.model.jnt_type[joint] == self._mujoco.mjtJoint.mjJNT_FREE:
            address = int(self.model.jnt_qposadr[joint])
            self.data.qpos[address : address + 3] = position
            self.data.qpos[address + 3 : address + 7] = self._stock.body_quat[body]
        else:
            self.model.body_pos[body] = position

    def _turn_joints(self, rng: np.random.Generator) -> dict[str, float]:
        """Each thing's joint somewhere in its range, often at an end; returns how far, 0..1."""
        fractions = {}
        for thing in self.scene.things:
            if thing.joint is not None:
                fraction = float(rng.choice([0.0, 1.0, rng.random(), rng.random()]))
                body = self.model.body(thing.joint.body).id
                address = self.model.jnt_qposadr[self.model.body_jntadr[body]]
                self.data.qpos[address] = thing.joint.low + fraction * (
                    thing.joint.high - thing.joint.low
                )
                fractions[thing.name] = fraction
        return fractions

    def _place_toys(self, rng: np.random.Generator, taken: Sequence[np.ndarray]) -> None:
        assert self.appearance is not None
        placed = list(taken)
        for number, toy in enumerate(self.appearance.toys):
            for _ in range(20):
                position = np.array([rng.uniform(-0.4, 0.4), rng.uniform(0.42, 0.9), toy.height])
                if all(np.linalg.norm(position[:2] - other[:2]) > 0.12 for other in placed):
                    break
            placed.append(position)
            self.model.body_pos[self.model.body(f"toy{number}").id] = position

    # --- what is true of it

    def _facts(self, fractions: dict[str, float], opening: float) -> Facts:
        assert self.appearance is not None
        seen, parts, tasks = [], [], []
        for thing in self.scene.things:
            ends = (thing.joint.at_low, thing.joint.at_high) if thing.joint else ("", "")
            state = (*ends, fractions[thing.name]) if thing.joint else None
            colour = self.appearance.colours.get(thing.material, "")
            seen.append(
                self._seen(thing.name, self._point(thing.place), colour=colour, state=state)
            )
            parts += [self._seen(name, self._point(place)) for name, place in thing.parts.items()]
            tasks += [
                (text, self._seen(text, self._point(place))) for text, place in thing.tasks.items()
            ]
        for number, toy in enumerate(self.appearance.toys):
            if toy.kind:
                point = self.data.body(f"toy{number}").xpos.copy()
                seen.append(
                    self._seen(toy.kind, point, colour=toy.colour, kind=toy.kind, size=toy.size)
                )
        hand = self._seen("gripper", self.arm.tip(self.data))
        return Facts(self.scene.name, tuple(seen), tuple(parts), hand, opening, tuple(tasks))

    def _seen(self, name: str, point: np.ndarray, **more: Any) -> Seen:
        assert self.appearance is not None
        return Seen(name, point, self.appearance.view.pixel(point), **more)

    def _point(self, place: Place) -> np.ndarray:
        found = getattr(self.data, place.kind)(place.name)
        return np.asarray(found.xpos + np.array(place.offset))


class _Stock:
    """The arrays of a model that `dress` and `pose` change, as they were compiled."""

    NAMES = (
        "mat_rgba", "mat_texid", "geom_rgba", "geom_size", "site_rgba", "site_pos", "body_pos", "body_quat",
        "light_diffuse", "light_pos", "tex_data",
    )  # fmt: skip

    def __init__(self, model: Any) -> None:
        self._arrays = {name: getattr(model, name).copy() for name in self.NAMES}
        self._headlight = (model.vis.headlight.ambient.copy(), model.vis.headlight.diffuse.copy())
        self.body_pos, self.body_quat = self._arrays["body_pos"], self._arrays["body_quat"]

    def restore(self, model: Any) -> None:
        for name, array in self._arrays.items():
            getattr(model, name)[:] = array
        model.vis.headlight.ambient[:], model.vis.headlight.diffuse[:] = self._headlight


@functools.cache
def stage(name: str) -> Stage:
    """The stage of the scene file called `name`. Compiling one takes a fifth of a second: once in
    each process."""
    return Stage(next(scene for scene in SCENES if scene.name == name))


# --- toys


def _add_toy(spec: Any, number: int) -> None:
    """A body with one geom of each shape, all hidden; nothing touches them."""
    import mujoco

    shapes = mujoco.mjtGeom
    body = spec.worldbody.add_body(name=f"toy{number}", pos=[0, 0, -1])
    for name, kind in (
        ("box", shapes.mjGEOM_BOX),
        ("cylinder", shapes.mjGEOM_CYLINDER),
        ("egg", shapes.mjGEOM_ELLIPSOID),
    ):
        body.add_geom(
            name=f"toy{number} {name}", type=kind, size=[0.03, 0.03, 0.03], rgba=[0.4, 0.4, 0.4, HIDDEN], group=1,
            contype=0, conaffinity=0,
        )  # fmt: skip


def _shape_of(kind: str) -> str:
    return {
        "cube": "box",
        "bar": "box",
        "ball": "egg",
        "egg": "egg",
        "cylinder": "cylinder",
        "disk": "cylinder",
    }[kind]


def _random_toy(rng: np.random.Generator) -> Toy:
    return Toy(kind=str(rng.choice(KINDS)), size=str(rng.choice(["big", "small"])))


def _dimensions(toy: Toy, rng: np.random.Generator) -> tuple[float, ...]:
    """Half lengths in m, the vertical one last; of cylinders the radius and the half height."""
    r = float(rng.uniform(0.035, 0.045) if toy.size == "big" else rng.uniform(0.018, 0.026))
    return {
        "cube": (r, r, r),
        "bar": (2.2 * r, 0.6 * r, 0.6 * r),
        "ball": (r, r, r),
        "egg": (0.7 * r, 0.7 * r, 1.3 * r),
        "cylinder": (0.8 * r, 1.3 * r),
        "disk": (1.3 * r, 0.25 * r),
    }[toy.kind]


# --- helpers


def _materials(model: Any, root: str) -> tuple[str, ...]:
    """The materials of what hangs on the body `root` and can be seen."""
    inside = {model.body(root).id}
    for body in range(model.nbody):
        if int(model.body_parentid[body]) in inside:
            inside.add(body)
    used = {
        int(model.geom_matid[g])
        for g in range(model.ngeom)
        if int(model.geom_bodyid[g]) in inside
        and model.geom_group[g] < 3
        and model.geom_matid[g] >= 0
    }
    return tuple(sorted(model.mat(i).name for i in used if model.mat_rgba[i, 3] > 0.5))


def _muted(rng: np.random.Generator) -> RGB:
    """The colour of a table, a wall or a floor: any brightness, little colour."""
    rgb = np.clip(rng.uniform(0.15, 0.9) + 0.12 * rng.standard_normal(3), 0.0, 1.0)
    return float(rgb[0]), float(rgb[1]), float(rgb[2])
