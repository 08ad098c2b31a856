"""LIBERO's own environments, of which we use the models, the placement of things, the controller
and the success. The one file that imports `libero` and `robosuite`.

Left out are robosuite's images and observables, which nobody reads, and its hard reset, which
compiles the model again. All environments of one task in a process share one model: where the
furniture stands is written into it when an environment is used (`Scene.use`).
"""

import functools
import os
import sys
import types
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
from jaxtyping import Float

from irevla.envs import render  # first of all: it chooses the GL library

import mujoco  # isort: skip

from irevla.envs.libero.tasks import CAMERA, Spec
from irevla.storage import disk

TRIES = 100  # to find free places for all things


def _quietly() -> None:
    """Keep robosuite from asking for a file of settings, and from logging into /tmp; and what numba
    and matplotlib (which LIBERO imports) keep in our cache."""
    macros: Any = types.ModuleType("robosuite.macros_private")
    macros.CONSOLE_LOGGING_LEVEL = "ERROR"
    macros.FILE_LOGGING_LEVEL = None
    sys.modules.setdefault("robosuite.macros_private", macros)
    os.environ.setdefault("NUMBA_CACHE_DIR", str(disk.cache_dir("numba")))
    os.environ.setdefault("MPLCONFIGDIR", str(disk.cache_dir("matplotlib")))


@functools.cache
def _package() -> Any:
    """LIBERO's problems by their names, and what makes and samples them."""
    _quietly()
    import libero.libero.envs  # noqa: F401  registers the problems
    import libero.libero.envs.bddl_utils as bddl
    import robosuite
    from libero.libero.envs.bddl_base_domain import TASK_MAPPING
    from robosuite.utils.binding_utils import MjSim
    from robosuite.utils.errors import RandomizationError

    return types.SimpleNamespace(
        problems=TASK_MAPPING,
        bddl=bddl,
        controller=robosuite.load_controller_config(default_controller="OSC_POSE"),
        MjSim=MjSim,
        RandomizationError=RandomizationError,
    )


def without_images(xml: str) -> str:
    """The model without its textures, which take most of its memory and nothing of physics."""
    root = ElementTree.fromstring(xml)
    for asset in root.iter("asset"):
        for texture in asset.findall("texture"):
            asset.remove(texture)
        for material in asset.findall("material"):
            material.attrib.pop("texture", None)
    return ElementTree.tostring(root, encoding="unicode")


def _bare(problem: type) -> type:
    """The problem without images and observables. LIBERO checks the name of the class."""

    def _initialize_sim(self: Any, xml_string: str | None = None) -> None:
        self._xml_processor = without_images
        problem._initialize_sim(self, xml_string)  # type: ignore[attr-defined]
        model = self.sim.model
        self.as_compiled = (model.body_pos.copy(), model.body_quat.copy())

    def _setup_observables(self: Any) -> dict[str, Any]:
        return {}

    names = {"_initialize_sim": _initialize_sim, "_setup_observables": _setup_observables}
    return type(problem.__name__, (problem,), names)


class Stock:
    """LIBERO's environment of one task, shared by all our environments of it in this process."""

    def __init__(self, spec: Spec) -> None:
        package = _package()
        name = package.bddl.get_problem_info(str(spec.goal))["problem_name"]
        self.problem: Any = _bare(package.problems[name])(
            str(spec.goal),
            robots=["Panda"],
            controller_configs=package.controller,
            initialization_noise=None,
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,
            camera_names=["agentview", "robot0_eye_in_hand"],
            hard_reset=False,
        )
        self.model = self.problem.sim.model._model
        self.clouds: dict[int, Any] = {}  # what the experts have found out about its things
        with np.load(spec.starts, allow_pickle=False) as file:
            self.starts: Float[np.ndarray, "50 S"] = file["states"]

    def new_sim(self) -> Any:
        """Return another simulation of the same model, as robosuite wraps it."""
        return _package().MjSim(self.model)

    def reset(self, sim: Any, seed: int) -> Any:
        """Place everything anew in `sim`, as `seed` says; return the controller of the arm.

        LIBERO draws from numpy's global generator, which is left as it was.
        """
        self.problem.sim = sim
        # As in a new model: things in a drawer are put where the drawer is before it is moved.
        self.model.body_pos[:], self.model.body_quat[:] = self.problem.as_compiled
        before = np.random.get_state()
        np.random.seed(seed)
        try:
            for _ in range(TRIES):
                try:
                    self.problem.reset()
                    return self.problem.robots[0].controller
                except _package().RandomizationError:
                    continue
        finally:
            np.random.set_state(before)
        raise AssertionError("LIBERO finds no free places for its things")

    def success(self, sim: Any) -> bool:
        """Whether the task is done in the present state of `sim`."""
        self.problem.sim = sim
        return bool(self.problem._check_success())


@functools.cache
def stock(spec: Spec) -> Stock:
    """Return LIBERO's environment of a task: made once in a process."""
    return Stock(spec)


def with_images(spec: Spec) -> Any:
    """Return the model of a task as LIBERO has it, with its textures: 200 MB and more."""
    return mujoco.MjModel.from_xml_string(stock(spec).problem.model.get_xml())


@functools.cache
def renderer(spec: Spec, camera: str) -> Any:
    """Return the light model of a task for one of its cameras, shared by all its environments in
    this process."""
    whole = with_images(spec)
    seen = render.camera_of(whole, camera)
    carrier = int(whole.cam_bodyid[whole.camera(camera).id])
    inset = render.Inset(whole.body(carrier).name, seen, 1.0) if carrier else None
    return render.Renderer(
        whole,
        camera=render.camera_of(whole, CAMERA),
        inset=inset,
        detail=render.Detail(faces=400, cells=40),
        groups=(1,),  # what robosuite shows; 0 is what collides
        sites=False,
        textures=True,
    )
