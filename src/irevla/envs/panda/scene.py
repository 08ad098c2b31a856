"""The table, the arm and the things on it, as MuJoCo models built with MjSpec."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from irevla.envs import render  # first of all: it chooses the GL library

import mujoco  # isort: skip

from irevla.envs.franka import assets
from irevla.envs.panda import vegetables
from irevla.envs.panda.tasks import (
    CAMERA_POS,
    FOVY,
    LOOK_AT,
    SPECS,
    WRIST_FOVY,
    WRIST_LOOK_AT,
    WRIST_POS,
    TableObject,
)

BOX = mujoco.mjtGeom.mjGEOM_BOX
CYLINDER = mujoco.mjtGeom.mjGEOM_CYLINDER
CAPSULE = mujoco.mjtGeom.mjGEOM_CAPSULE
MESH = mujoco.mjtGeom.mjGEOM_MESH
PLANE = mujoco.mjtGeom.mjGEOM_PLANE
SLIDE = mujoco.mjtJoint.mjJNT_SLIDE
GRASP = 1500.0  # stiffness of each finger's motor, N/m: the kitchen's lets thin things slip
HAND = "panda0_link7"  # the body of the hand, which carries the wrist camera
HIDDEN = 4  # group of what is not drawn
TIMESTEP = 0.005  # s
PADS = (0.0, 0.0, 0.245)  # the end effector in the hand, m: between the pads, not behind them
# Half the sides of a block, m: it is long, so that grasping it asks for any turn of the hand.
BLOCK = (0.04, 0.019, 0.019)
TRAY = 0.065  # half the inside of the tray, m
SLOT = (0.02, 0.018)  # half the length and width of the slot, m
WALL = 0.025  # the height of its walls, m
SLOT_AT = 0.16  # how far the slot is from the post, m
POST = 0.03  # how high the cable begins, m
LINKS = 9  # of the cable
LINK = 0.03  # their length, m
CORD = 0.006  # their radius, m
DENSITY = 300.0  # of blocks and vegetables, kg/m^3
# Friction: sliding, turning (m), rolling (m), so that round things come to rest.
FRICTION = (1.0, 0.01, 0.002)

RGB = tuple[float, float, float]
XYZ = tuple[float, float, float]
COLOURS: dict[str, RGB] = {
    "red": (0.85, 0.08, 0.08),
    "blue": (0.10, 0.25, 0.85),
    "green": (0.05, 0.60, 0.20),
    "yellow": (0.98, 0.85, 0.10),
}
TOP, FLOOR, WOOD, GREY, DARK, WHITE, CYAN = (
    (0.72, 0.66, 0.60),
    (0.45, 0.50, 0.55),
    (0.55, 0.36, 0.20),
    (0.55, 0.55, 0.58),
    (0.15, 0.15, 0.17),
    (0.92, 0.92, 0.92),
    (0.10, 0.70, 0.75),
)


@functools.cache
def model_of(task: str) -> Any:
    """The compiled model of `task`, shared by all its environments in this process: do not change
    it."""
    spec = _arm()
    spec.worldbody.add_geom(
        type=BOX, size=[0.45, 0.55, 0.02], pos=[0.35, 0, -0.02], rgba=[*TOP, 1], friction=FRICTION
    )
    spec.worldbody.add_geom(type=PLANE, size=[4, 4, 0.1], pos=[0, 0, -0.5], rgba=[*FLOOR, 1])
    _add_camera(spec.worldbody, "front", CAMERA_POS, LOOK_AT, FOVY)
    _add_camera(spec.body(HAND), "wrist", WRIST_POS, WRIST_LOOK_AT, WRIST_FOVY)
    for thing in SPECS[task].objects:
        MAKERS[thing.kind](spec, thing)
    return spec.compile()


def _arm() -> Any:
    """The Panda on the origin, weightless: its joints need not hold it up. Its fingers are
    coupled."""
    parts = assets() / "franka_assets"
    spec = mujoco.MjSpec.from_string(
        f"""<mujoco>
          <include file="{parts}/assets.xml"/>
          <worldbody><include file="{parts}/chain.xml"/></worldbody>
          <include file="{parts}/actuator.xml"/>
          <compiler angle="radian" meshdir="{parts}/meshes"/>
          <option timestep="{TIMESTEP}" cone="elliptic" impratio="10" integrator="implicitfast"/>
          <visual>
            <headlight ambient=".5 .5 .5" diffuse=".5 .5 .5" specular="0 0 0"/>
            <map znear=".01"/>
          </visual>
          <statistic extent="1" center=".4 0 .1"/>
        </mujoco>"""
    )
    for body in spec.bodies:
        body.gravcomp = 1.0
    spec.add_equality(
        type=mujoco.mjtEq.mjEQ_JOINT,
        name1="robot:panda0_finger_joint1",
        name2="robot:panda0_finger_joint2",
        objtype=mujoco.mjtObj.mjOBJ_JOINT,
        data=[0, 1] + [0] * 9,
    )
    for side in ("r", "l"):
        motor = spec.actuator(f"{side}_gripper_finger_joint")
        motor.gainprm[0] = GRASP
        motor.biasprm[1] = -GRASP
    hand = spec.site("end_effector")
    hand.pos = PADS
    hand.group = HIDDEN
    return spec


def _add_camera(body: Any, name: str, pos: XYZ, at: XYZ, fovy: float) -> None:
    body.add_camera(name=name, pos=pos, quat=render.looking(np.array(pos), np.array(at)), fovy=fovy)


# --- Objects. Those that stay where they are (contype 0) touch the arm and what lies loose, and not
# each other.


def _loose(spec: Any, name: str, height: float) -> Any:
    body = spec.worldbody.add_body(name=name, pos=[0, 0, height])
    body.add_freejoint(name=name)
    return body


def _box(
    body: Any, half: tuple[float, float, float], at: tuple[float, float, float], rgb: RGB
) -> None:
    body.add_geom(type=BOX, size=half, pos=at, rgba=[*rgb, 1], contype=0)


def _block(spec: Any, thing: TableObject) -> None:
    body = _loose(spec, thing.name, BLOCK[2])
    rgb = COLOURS[thing.name.split()[0]]
    body.add_geom(
        type=BOX, size=BLOCK, rgba=[*rgb, 1], density=DENSITY, friction=FRICTION, condim=4
    )


def _vegetable(spec: Any, thing: TableObject) -> None:
    pieces = vegetables.MAKERS[thing.name]()
    body = _loose(spec, thing.name, vegetables.bottom(pieces))
    for index, ((vertices, faces), rgb) in enumerate(pieces):
        name = f"{thing.name} {index}"
        spec.add_mesh(
            name=name,
            uservert=vertices.reshape(-1),
            userface=faces.reshape(-1),
            inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX,
        )
        body.add_geom(
            type=MESH, meshname=name, rgba=[*rgb, 1], density=DENSITY, friction=FRICTION, condim=6
        )


def _tray(spec: Any, thing: TableObject) -> None:
    body = spec.worldbody.add_body(name=thing.name)
    side = TRAY + 0.004
    _box(body, (side, side, 0.003), (0.0, 0.0, 0.003), WHITE)
    for sign in (-1, 1):
        _box(body, (0.004, side, 0.013), (sign * side, 0.0, 0.013), WHITE)
        _box(body, (side, 0.004, 0.013), (0.0, sign * side, 0.013), WHITE)


def _button(spec: Any, thing: TableObject) -> None:
    body = spec.worldbody.add_body(name=thing.name)
    _box(body, (0.05, 0.05, 0.018), (0.0, 0.0, 0.018), DARK)
    plunger = body.add_body(name="plunger", pos=[0, 0, 0.048])
    plunger.add_joint(
        name="plunger",
        type=SLIDE,
        axis=[0, 0, -1],
        range=[0, 0.02],
        stiffness=80,
        damping=3,
        armature=0.05,
        limited=mujoco.mjtLimited.mjLIMITED_TRUE,
    )
    plunger.gravcomp = 1.0
    plunger.add_geom(
        type=CYLINDER,
        size=[0.028, 0.012, 0],
        rgba=[*(thing.paint or (0.85, 0.1, 0.1)), 1],
        contype=0,
        mass=0.05,
    )


def _drawer(spec: Any, thing: TableObject) -> None:
    """A cabinet whose drawer opens along its x."""
    wood = thing.paint or WOOD
    body = spec.worldbody.add_body(name=thing.name)
    _box(body, (0.075, 0.09, 0.005), (0.0, 0.0, 0.105), wood)
    _box(body, (0.005, 0.09, 0.05), (-0.07, 0.0, 0.05), wood)
    for sign in (-1, 1):
        _box(body, (0.075, 0.005, 0.05), (0.0, sign * 0.085, 0.05), wood)
    drawer = body.add_body(name="drawer")
    drawer.add_joint(
        name="drawer",
        type=SLIDE,
        axis=[1, 0, 0],
        range=[0, 0.15],
        damping=4,
        frictionloss=0.5,
        armature=0.1,
        limited=mujoco.mjtLimited.mjLIMITED_TRUE,
    )
    _box(drawer, (0.068, 0.075, 0.004), (0.004, 0.0, 0.012), GREY)
    _box(drawer, (0.004, 0.078, 0.045), (0.075, 0.0, 0.05), GREY)
    _box(drawer, (0.004, 0.075, 0.03), (-0.06, 0.0, 0.04), GREY)
    for sign in (-1, 1):
        _box(drawer, (0.068, 0.004, 0.03), (0.004, sign * 0.07, 0.04), GREY)
        _box(drawer, (0.03, 0.006, 0.006), (0.105, sign * 0.055, 0.06), CYAN)
    handle = drawer.add_body(name="handle", pos=[0.135, 0, 0.06])
    _box(handle, (0.007, 0.061, 0.008), (0.0, 0.0, 0.0), CYAN)


def _cable(spec: Any, thing: TableObject) -> None:
    """A cable that hangs on a post, with a plug at its end, and a slot to lay it in, along x from
    the post."""
    body = spec.worldbody.add_body(name=thing.name)
    _box(body, (0.018, 0.018, POST / 2 + 0.005), (-0.018, 0.0, POST / 2 + 0.005), DARK)
    slot = body.add_body(name="slot", pos=[SLOT_AT, 0, 0])
    for sign in (-1, 1):
        _box(slot, (SLOT[0], 0.009, WALL / 2), (0.0, sign * (SLOT[1] + 0.009), WALL / 2), CYAN)
    link = body
    step = [0.0, 0.0, POST]
    for index in range(LINKS):
        link = link.add_body(name=f"link{index}", pos=step)
        for name, axis in (("yaw", [0, 0, 1]), ("pitch", [0, 1, 0])):
            link.add_joint(
                name=f"{name}{index}", axis=axis, damping=0.003, stiffness=0.02, armature=2e-4
            )
        link.add_geom(
            type=CAPSULE,
            fromto=[0, 0, 0, LINK, 0, 0],
            size=[CORD, 0, 0],
            rgba=[0.95, 0.45, 0.05, 1],
            mass=0.004,
            friction=[0.4, 0.005, 0.0001],
        )
        step = [LINK, 0, 0]
    plug = link.add_body(name="plug", pos=[LINK + 0.015, 0, 0.005])
    plug.add_geom(
        type=BOX, size=[0.02, 0.014, 0.011], rgba=[*WHITE, 1], mass=0.02, friction=FRICTION
    )


MAKERS: Mapping[str, Callable[[Any, TableObject], None]] = {
    "block": _block,
    "vegetable": _vegetable,
    "tray": _tray,
    "button": _button,
    "drawer": _drawer,
    "cable": _cable,
}
