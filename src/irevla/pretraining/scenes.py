"""Procedural scenes: the arm over a table, what stands on it, toys beside it; painted, lit and
rendered at random.

A `Scene` is one compiled model. `dress` paints and lights it and chooses the camera; `pose` moves
all that can move. Both are functions of the random generator alone. Nothing is simulated: positions
are set, and kinematics do the rest.
"""

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from irevla.errors import UserError
from irevla.pretraining import palette
from irevla.pretraining.arm import Arm
from irevla.pretraining.objects import SCENES, Place, SceneFile, SceneObject
from irevla.pretraining.palette import RGB
from irevla.pretraining.view import View, random_view, usual_view

TOYS = 3  # toys that a model holds, shown or not
SURROUNDINGS = ("table_wood", "wall_metal", "basic_floor")
PLAIN = 0.4  # share of the appearances without paint, toys or other views: the easy ones
PAINTED = 0.75  # share of the others in which a material of an object gets a new colour
HIDDEN = 0.0  # alpha
KINDS = ("cube", "bar", "ball", "cylinder", "disk", "egg")  # of toys


@dataclass(frozen=True)
class Located:
    """Something that can be spoken of, and where it is."""

    name: str
    point: Float[np.ndarray, "3"]  # in the world, m
    pixel: tuple[float, float]  # in the image: column and row, 0..1
    colour: str = ""  # empty: not to be spoken of
    kind: str = ""  # of a toy; empty for the objects of the scene file
    size: str = ""  # "big" or "small", of a toy
    state: tuple[str, str, float] | None = None  # words of both ends, and where between them, 0..1

    @property
    def visible(self) -> bool:
        """Whether it is inside the image; something else may still stand before it."""
        return 0 <= self.pixel[0] < 1 and 0 <= self.pixel[1] < 1


@dataclass(frozen=True)
class Facts:
    """All that is true of one image."""

    scene: str  # the scene file's name
    objects: tuple[Located, ...]
    parts: tuple[Located, ...]
    hand: Located
    opening: float  # of the gripper, 0..1
    tasks: tuple[tuple[str, Located], ...]  # an instruction, and where the hand goes


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
    # Material -> name of its colour, where it was painted.
    colours: dict[str, str] = field(default_factory=dict)
    paint: dict[str, RGB] = field(default_factory=dict)  # material -> colour
    toys: list[Toy] = field(default_factory=list)


def models_folder() -> Path:
    """Return where the installed Meta-World keeps its models. Raises `UserError` where there is
    none."""
    found = importlib.util.find_spec("metaworld")
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "the scenes are built from Meta-World's models: pip install 'irevla[metaworld]'"
        )
    return Path(found.submodule_search_locations[0]) / "assets" / "sawyer_xyz"


class Scene:
    """One compiled model, with toys."""

    def __init__(self, scene: SceneFile) -> None:
        from irevla.envs import render  # first of all: it chooses the GL library

        import mujoco  # isort: skip

        self.scene = scene
        self._mujoco = mujoco
        self._render = render
        spec = mujoco.MjSpec.from_file(str(models_folder() / f"{scene.name}.xml"))
        for number in range(TOYS):
            _add_toy(spec, number)
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.arm = Arm(self.model)
        self._stock = _Stock(self.model)
        self.materials = {obj.name: _materials(self.model, obj.body) for obj in scene.objects}
        self.appearance: Appearance | None = None
        self._renderer: Any = None

    def dress(self, rng: np.random.Generator) -> Appearance:
        """Paint and light the scene anew, choose its toys and its camera."""
        self._stock.restore(self.model)
        plain = bool(self.scene.objects and rng.random() < PLAIN)
        chosen = Appearance(usual_view(self.model) if plain else random_view(self.model, rng))
        if not plain:
            self._paint_objects(chosen, rng)
            self._paint_surroundings(rng)
            self._light(rng)
            self._choose_toys(chosen, rng)
        if not self.scene.goal and rng.random() < 0.5:
            self.model.site_rgba[:, 3] = HIDDEN  # the markers of goals
        self.appearance = chosen
        self._renderer = self._render.Renderer(self.model, camera=chosen.view.camera)
        return chosen

    def pose(self, rng: np.random.Generator) -> Facts:
        """Move what can move: roots, joints, toys and the arm; return what is true then.

        The hand is often near something to be reached.
        """
        places = self._place_objects(rng)
        fractions = self._turn_joints(rng)
        self._place_toys(rng, places)
        self._mujoco.mj_kinematics(self.model, self.data)
        targets = [self._point(place) for obj in self.scene.objects for place in obj.tasks.values()]
        opening = self.arm.pose(self.model, self.data, rng, near=targets)
        return self._facts(fractions, opening)

    def image(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """Return the present scene, as the view shows it."""
        assert self.appearance is not None, "dress first"
        rendered: np.ndarray = self._renderer.draw(self.model, self.data, size=size)
        return self.appearance.view.flip(rendered)

    # --- appearance

    def _paint_objects(self, chosen: Appearance, rng: np.random.Generator) -> None:
        for materials in self.materials.values():
            avoid = palette.held_out(materials)
            for material in materials:
                if rng.random() < PAINTED:
                    name, rgb = palette.sample(rng, avoid)
                    chosen.colours[material] = name
                    chosen.paint[material] = rgb
                    self._paint(material, rgb)

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
            self._paint_sky(rng)

    def _paint_sky(self, rng: np.random.Generator) -> None:
        model = self.model
        skybox = self._mujoco.mjtTexture.mjTEXTURE_SKYBOX
        for texture in np.flatnonzero(model.tex_type == skybox):
            start = model.tex_adr[texture]
            channels = model.tex_nchannel[texture]
            count = model.tex_height[texture] * model.tex_width[texture]
            pixels = model.tex_data[start : start + count * channels].reshape(count, channels)
            pixels[:, :3] = (255 * np.array(_muted(rng))).astype(np.uint8)

    def _light(self, rng: np.random.Generator) -> None:
        if rng.random() < 0.3:
            return  # as in the stock scene
        model = self.model
        model.vis.headlight.ambient[:] = rng.uniform(0.25, 0.55)
        model.vis.headlight.diffuse[:] = rng.uniform(0.25, 0.55)
        model.light_diffuse[:] = rng.uniform(0.1, 0.5, (model.nlight, 1))
        model.light_pos[:] += rng.uniform(-0.7, 0.7, (model.nlight, 3))

    def _choose_toys(self, chosen: Appearance, rng: np.random.Generator) -> None:
        fewest = 0 if self.scene.objects else 1
        shown = int(rng.integers(fewest, TOYS + 1))
        colours: set[str] = set()
        for number in range(TOYS):
            toy = Toy()
            if number < shown:
                toy = _random_toy(rng)
                while toy.colour == "" or toy.colour in colours:
                    toy.colour, rgb = palette.sample(rng)
                colours.add(toy.colour)
                size = _dimensions(toy, rng)
                toy.height = size[-1]
                self._show_toy(number, toy, size, rgb)
            chosen.toys.append(toy)

    def _show_toy(self, number: int, toy: Toy, size: tuple[float, ...], rgb: RGB) -> None:
        geom = self.model.geom(f"toy{number} {_shape_of(toy.kind)}").id
        self.model.geom_rgba[geom] = [*rgb, 1.0]
        self.model.geom_size[geom, : len(size)] = size

    # --- state

    def _place_objects(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Move the roots within their ranges, far enough from each other; return where they are,
        m."""
        placed: list[np.ndarray] = []
        for obj in self.scene.objects:
            body = self.model.body(obj.body).id
            rest = self._stock.body_pos[body]
            for _ in range(20):
                offset = rng.uniform(obj.low, obj.high)
                position = np.array([offset[0], offset[1], rest[2] + offset[2]])
                if all(np.linalg.norm(position[:2] - other[:2]) > 0.17 for other in placed):
                    break
            placed.append(position)
            self._move(body, position)
        # Where the stock task hides a target, it may be anywhere over the table.
        goals = [i for i in range(self.model.nsite) if self.model.site(i).name == "goal"]
        for site in goals:
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
        """Turn each object's joint somewhere in its range, often to an end; return how far,
        0..1."""
        fractions = {}
        for obj in self.scene.objects:
            joint = obj.joint
            if joint is not None:
                fraction = float(rng.choice([0.0, 1.0, rng.random(), rng.random()]))
                body = self.model.body(joint.body).id
                address = self.model.jnt_qposadr[self.model.body_jntadr[body]]
                self.data.qpos[address] = joint.low + fraction * (joint.high - joint.low)
                fractions[obj.name] = fraction
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
        objects = []
        parts = []
        tasks = []
        for obj in self.scene.objects:
            colour = self.appearance.colours.get(obj.material, "")
            state = _state(obj, fractions)
            at = self._point(obj.place)
            objects.append(self._located(obj.name, at, colour=colour, state=state))
            for name, place in obj.parts.items():
                parts.append(self._located(name, self._point(place)))
            for text, place in obj.tasks.items():
                tasks.append((text, self._located(text, self._point(place))))
        for number, toy in enumerate(self.appearance.toys):
            if toy.kind:
                at = self.data.body(f"toy{number}").xpos.copy()
                look = {"colour": toy.colour, "kind": toy.kind, "size": toy.size}
                objects.append(self._located(toy.kind, at, **look))
        hand = self._located("gripper", self.arm.tip(self.data))
        return Facts(self.scene.name, tuple(objects), tuple(parts), hand, opening, tuple(tasks))

    def _located(self, name: str, point: np.ndarray, **more: Any) -> Located:
        assert self.appearance is not None
        return Located(name, point, self.appearance.view.pixel(point), **more)

    def _point(self, place: Place) -> np.ndarray:
        found = getattr(self.data, place.kind)(place.name)
        return np.asarray(found.xpos + np.array(place.offset))


class _Stock:
    """The arrays of a model that `dress` and `pose` change, as they were compiled."""

    NAMES = (
        "mat_rgba",
        "mat_texid",
        "geom_rgba",
        "geom_size",
        "site_rgba",
        "site_pos",
        "body_pos",
        "body_quat",
        "light_diffuse",
        "light_pos",
        "tex_data",
    )

    def __init__(self, model: Any) -> None:
        self._arrays = {name: getattr(model, name).copy() for name in self.NAMES}
        self._ambient = model.vis.headlight.ambient.copy()
        self._diffuse = model.vis.headlight.diffuse.copy()
        self.body_pos = self._arrays["body_pos"]
        self.body_quat = self._arrays["body_quat"]

    def restore(self, model: Any) -> None:
        for name, array in self._arrays.items():
            getattr(model, name)[:] = array
        model.vis.headlight.ambient[:] = self._ambient
        model.vis.headlight.diffuse[:] = self._diffuse


@functools.cache
def load_scene(name: str) -> Scene:
    """Return the scene of the file called `name`.

    Compiling one takes a fifth of a second: once in each process.
    """
    return Scene(next(scene for scene in SCENES if scene.name == name))


# --- toys


def _add_toy(spec: Any, number: int) -> None:
    """A body with one geom of each shape, all hidden; nothing touches them."""
    import mujoco

    shapes = {
        "box": mujoco.mjtGeom.mjGEOM_BOX,
        "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
        "egg": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    }
    body = spec.worldbody.add_body(name=f"toy{number}", pos=[0, 0, -1])
    for name, kind in shapes.items():
        body.add_geom(
            name=f"toy{number} {name}",
            type=kind,
            size=[0.03, 0.03, 0.03],
            rgba=[0.4, 0.4, 0.4, HIDDEN],
            group=1,
            contype=0,
            conaffinity=0,
        )


def _shape_of(kind: str) -> str:
    """Return the geom of a toy of this kind."""
    shapes = {
        "cube": "box",
        "bar": "box",
        "ball": "egg",
        "egg": "egg",
        "cylinder": "cylinder",
        "disk": "cylinder",
    }
    return shapes[kind]


def _random_toy(rng: np.random.Generator) -> Toy:
    return Toy(kind=str(rng.choice(KINDS)), size=str(rng.choice(["big", "small"])))


def _dimensions(toy: Toy, rng: np.random.Generator) -> tuple[float, ...]:
    """Return half lengths in m, the vertical one last; of cylinders the radius and the half
    height."""
    low, high = (0.035, 0.045) if toy.size == "big" else (0.018, 0.026)
    r = float(rng.uniform(low, high))
    sizes: dict[str, tuple[float, ...]] = {
        "cube": (r, r, r),
        "bar": (2.2 * r, 0.6 * r, 0.6 * r),
        "ball": (r, r, r),
        "egg": (0.7 * r, 0.7 * r, 1.3 * r),
        "cylinder": (0.8 * r, 1.3 * r),
        "disk": (1.3 * r, 0.25 * r),
    }
    return sizes[toy.kind]


# --- helpers


def _state(obj: SceneObject, fractions: Mapping[str, float]) -> tuple[str, str, float] | None:
    """Return the words for both ends of an object's joint, and where it is between them, 0..1."""
    if obj.joint is None:
        return None
    return obj.joint.at_low, obj.joint.at_high, fractions[obj.name]


def _materials(model: Any, root: str) -> tuple[str, ...]:
    """Return the materials of what hangs on the body `root` and is shown."""
    inside = {model.body(root).id}
    for body in range(model.nbody):
        if int(model.body_parentid[body]) in inside:
            inside.add(body)
    shown = (model.geom_group < 3) & (model.geom_matid >= 0)
    shown &= np.isin(model.geom_bodyid, list(inside))
    used = {int(material) for material in model.geom_matid[shown]}
    return tuple(sorted(model.mat(i).name for i in used if model.mat_rgba[i, 3] > 0.5))


def _muted(rng: np.random.Generator) -> RGB:
    """Return the colour of a table, a wall or a floor: any brightness, little colour."""
    rgb = np.clip(rng.uniform(0.15, 0.9) + 0.12 * rng.standard_normal(3), 0.0, 1.0)
    return float(rgb[0]), float(rgb[1]), float(rgb[2])
