"""Fast MuJoCo images without a GPU: the whole scene drawn as one skin, in one draw call, by one
GL context per process.

On a CPU the time of a frame goes into shadow maps, multisampling and reflections (off here), into
triangles (decimated here), and then into draw calls: about 45 microseconds for each geom. So every
visible geom and site of a model becomes triangles in the frame of its body, coloured through a
palette texture, and all of them together one MuJoCo skin whose bones are the bodies: MuJoCo moves
the vertices, and the GL library sees a single mesh. What is drawn is a model of its own;
physics is only read.

Left out, on purpose: shadows, reflections, textures (each material shows its mean colour), and what
is nearly transparent. With `textures=True` what has an image on it is drawn on its own, made light
(`textured`): one more draw call each.
"""

import atexit
import functools
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from irevla.envs import gl, meshes
from irevla.errors import UserError


def _no_gl(error: Exception) -> UserError:
    name = os.environ["MUJOCO_GL"]
    remedy = {
        "osmesa": "apt-get install libosmesa6",
        "egl": "apt-get install libegl1, or set MUJOCO_GL=osmesa",
    }
    return UserError(
        f"MuJoCo cannot draw with MUJOCO_GL={name} ({error}): "
        f"{remedy.get(name, 'set MUJOCO_GL=osmesa')}"
    )


gl.choose()
try:
    import mujoco  # which loads the GL library, and fails in many ways where there is none
except ModuleNotFoundError:
    raise
except (ImportError, AttributeError, OSError, RuntimeError) as _error:
    raise _no_gl(_error) from _error

OPAQUE = 0.3  # geoms and sites of a lower alpha are left out
GROUPS = (0, 1, 2)  # of geoms and sites that are drawn, as in MuJoCo's own default
MAX_SIZE = 1024  # side of the largest image, pixels
SKY_SHADE = 1.0  # the backdrop is lit like everything else: here, by just as much as it absorbs
LIGHT = (  # what is taken over of each light
    "pos",
    "dir",
    "ambient",
    "diffuse",
    "specular",
    "attenuation",
    "cutoff",
    "exponent",
    "directional",
)
# side of one colour in the palette, texels: wide enough for linear filtering not to mix neighbours
CELL = 8


@dataclass(frozen=True)
class Detail:
    """How much of each mesh is kept."""

    faces: int  # about
    cells: int  # along its longest side, where a rich mesh is put on a grid first


PLAIN = Detail(faces=150, cells=meshes.CELLS)


@dataclass(frozen=True)
class Camera:
    """A fixed camera of the world, or of a body that carries it: position (m), orientation
    (quaternion w x y z), vertical field of view (degrees)."""

    pos: tuple[float, float, float]
    quat: tuple[float, float, float, float]
    fovy: float = 45.0


@dataclass(frozen=True)
class Inset:
    """A second view, over the top left corner of the image, by a camera that a body carries."""

    body: str
    camera: Camera  # in the frame of the body
    share: float  # of the image's side; 1: it is all that is seen


def camera_of(model: Any, name: str, pos: tuple[float, float, float] | None = None) -> Camera:
    """The camera `name` of `model`, optionally moved to `pos`."""
    i = model.camera(name).id
    return Camera(
        pos or tuple(model.cam_pos[i].tolist()),
        tuple(model.cam_quat[i].tolist()),
        float(model.cam_fovy[i]),
    )


def looking(pos: Float[np.ndarray, "3"], at: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4"]:
    """The orientation (quaternion w x y z) of an upright camera at `pos` that looks at `at`: along
    its -z."""
    back = (pos - at) / np.linalg.norm(pos - at)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, np.stack([right, np.cross(back, right), back], axis=1).reshape(-1))
    return quat


def check_gl() -> None:
    """Raise `UserError` with the remedy where no GL library can be loaded."""
    try:
        _context()
    except (ImportError, AttributeError, OSError, RuntimeError, mujoco.FatalError) as error:
        raise _no_gl(error) from error


@functools.cache
def _context() -> Any:
    """The one GL context of this process. Two live OSMesa contexts give garbage frames without any
    error."""
    # Not mujoco.GLContext, which is settled when mujoco is first imported: perhaps before this one.
    library = importlib.import_module(f"mujoco.{os.environ['MUJOCO_GL'].lower()}")
    context = library.GLContext(MAX_SIZE, MAX_SIZE)
    context.make_current()
    atexit.register(_context.cache_clear)  # else it is freed after the module that frees it
    empty = mujoco.MjModel.from_xml_string("<mujoco/>")
    mujoco.MjrContext(empty, mujoco.mjtFontScale.mjFONTSCALE_50)  # glfw fails here
    return context


# --- From a physics model to a drawing model


@dataclass(frozen=True)
class _Part:
    """Triangles that move with one frame (a body of the physics model, or a site), in one
    colour."""

    frame: int
    mesh: meshes.Mesh
    rgb: tuple[float, float, float]


def _colour(model: Any, material: int, rgba: np.ndarray) -> np.ndarray:
    """What MuJoCo would show: the object's own colour unless it is the default, times the mean of
    its texture."""
    grey = np.array([0.5, 0.5, 0.5, 1.0], np.float32)
    if material < 0:
        return rgba.astype(np.float64)
    result = np.array(model.mat_rgba[material] if np.array_equal(rgba, grey) else rgba, np.float64)
    texture = int(model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB])
    if texture >= 0:
        result[:3] *= _texture_mean(model, texture)
    return result


def _shape(kind: int, size: np.ndarray) -> meshes.Mesh | None:
    shapes = mujoco.mjtGeom
    if kind == shapes.mjGEOM_SPHERE:
        return meshes.ellipsoid(np.repeat(size[:1], 3))
    makers = {
        shapes.mjGEOM_PLANE: meshes.plane,
        shapes.mjGEOM_BOX: meshes.box,
        shapes.mjGEOM_CYLINDER: meshes.cylinder,
        shapes.mjGEOM_CAPSULE: meshes.capsule,
        shapes.mjGEOM_ELLIPSOID: meshes.ellipsoid,
    }
    return makers[kind](size) if kind in makers else None


def _mesh_of(model: Any, mesh: int) -> meshes.Mesh:
    v = model.mesh_vertadr[mesh]
    f = model.mesh_faceadr[mesh]
    return model.mesh_vert[v : v + model.mesh_vertnum[mesh]], model.mesh_face[
        f : f + model.mesh_facenum[mesh]
    ]


def _placed(mesh: meshes.Mesh, pos: np.ndarray, quat: np.ndarray) -> meshes.Mesh:
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, quat)
    return (mesh[0] @ rotation.reshape(3, 3).T + pos).astype(np.float32), mesh[1]


def _parts(
    model: Any, detail: Detail, groups: Sequence[int], textured: Sequence[int]
) -> list[_Part]:
    """The geoms of `model` that are drawn in one colour, in the frames of their bodies."""
    found = []
    for g in range(model.ngeom):
        rgba = _colour(model, int(model.geom_matid[g]), model.geom_rgba[g])
        if model.geom_group[g] not in groups or rgba[3] < OPAQUE or g in textured:
            continue
        mesh: meshes.Mesh | None
        if model.geom_type[g] == mujoco.mjtGeom.mjGEOM_MESH:
            mesh = meshes.cached(
                _mesh_of(model, int(model.geom_dataid[g])), detail.faces, detail.cells
            )
        else:
            mesh = _shape(int(model.geom_type[g]), model.geom_size[g])
        if mesh is not None:
            placed = _placed(mesh, model.geom_pos[g], model.geom_quat[g])
            found.append(_Part(int(model.geom_bodyid[g]), placed, tuple(rgba[:3])))
    return found


def _sites(model: Any, groups: Sequence[int]) -> list[_Part]:
    """The sites, each in a frame of its own."""
    found = []
    for s in range(model.nsite):
        rgba = _colour(model, int(model.site_matid[s]), model.site_rgba[s])
        mesh = _shape(int(model.site_type[s]), model.site_size[s])
        if model.site_group[s] in groups and rgba[3] >= OPAQUE and mesh is not None:
            found.append(_Part(model.nbody + s, mesh, tuple(rgba[:3])))
    return found


def _geoms() -> Any:
    """What makes light geoms with textures, which few suites need."""
    return importlib.import_module("irevla.envs.textured_geoms")


def _backdrop(model: Any, camera: Camera) -> list[_Part]:
    """The sky as one rectangle behind everything: MuJoCo's sky box would cost as much as the rest
    of the scene."""
    sky = [i for i in range(model.ntex) if model.tex_type[i] == mujoco.mjtTexture.mjTEXTURE_SKYBOX]
    if not sky:
        return []
    depth = min(20.0, 0.9 * model.vis.map.zfar) * model.stat.extent
    half = depth * np.tan(np.radians(camera.fovy) / 2) * 1.05
    mesh = meshes.plane(np.array([half, half, 0.0]))
    rgb = SKY_SHADE * _texture_mean(model, sky[0])
    ahead = (mesh[0] - np.array([0, 0, depth], np.float32), mesh[1])
    placed = _placed(ahead, np.array(camera.pos), np.array(camera.quat))
    return [_Part(0, placed, tuple(rgb))]


def _texture_mean(model: Any, texture: int) -> np.ndarray:
    start = model.tex_adr[texture]
    channels = int(model.tex_nchannel[texture])
    height = int(model.tex_height[texture])
    width = int(model.tex_width[texture])
    texels = model.tex_data[start : start + height * width * channels].reshape(height, -1)
    # Rows first, in whole numbers: a mean over all texels at once takes ten times as long.
    column = texels.sum(axis=0, dtype=np.uint32).reshape(width, channels)
    return np.asarray(column[:, :3].sum(axis=0, dtype=np.int64) / (height * width) / 255)


def _visible(part: _Part, camera: Camera) -> _Part | None:
    """A part of the world without what `camera` can never see: faces turned away, and faces beside
    the image."""
    vertices, faces = part.mesh
    local, _ = _placed(
        (vertices - np.array(camera.pos), faces),
        np.zeros(3),
        np.array(camera.quat) * [1, -1, -1, -1],
    )
    corners = local[faces].astype(np.float64)  # F x 3 x 3, the camera looks along -z
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    facing = np.einsum("fi,fi->f", normals, corners[:, 0]) < 0
    edge = np.tan(np.radians(camera.fovy) / 2) * 1.05  # a square image
    x = corners[..., 0]
    y = corners[..., 1]
    depth = -corners[..., 2]
    beside = [(side > edge * depth).all(axis=1) for side in (x, -x, y, -y)]
    keep = faces[facing & ~np.any(beside, axis=0)]
    if not len(keep):
        return None
    used, index = np.unique(keep, return_inverse=True)
    return _Part(part.frame, (vertices[used], index.reshape(-1, 3).astype(np.int32)), part.rgb)


def _palette(parts: Sequence[_Part]) -> tuple[list[tuple[float, float, float]], np.ndarray]:
    colours = sorted({part.rgb for part in parts})
    row = np.concatenate([np.full((CELL, CELL, 3), colour) for colour in colours], axis=1)
    return colours, (row.clip(0, 1) * 255).round().astype(np.uint8)


def _drawing_model(
    model: Any, cameras: Sequence[Camera], parts: Sequence[_Part], textured: Sequence[int]
) -> Any:
    """A model with one body for each frame, one skin over all of them, geoms for what is textured,
    the lights of `model` and the cameras."""
    spec = mujoco.MjSpec()
    spec.visual.quality.shadowsize = 0
    spec.visual.quality.offsamples = 0
    spec.visual.global_.offwidth = 16
    spec.visual.global_.offheight = 16
    for name in ("ambient", "diffuse", "specular"):
        setattr(spec.visual.headlight, name, getattr(model.vis.headlight, name))
    spec.visual.map.znear = model.vis.map.znear
    spec.visual.map.zfar = model.vis.map.zfar
    spec.stat.extent = model.stat.extent
    spec.stat.center = model.stat.center
    for i in range(model.nlight):
        if model.light_active[i]:
            light = {name: getattr(model, f"light_{name}")[i] for name in LIGHT}
            spec.worldbody.add_light(castshadow=False, **light)
    for camera in cameras:
        spec.worldbody.add_camera(pos=camera.pos, quat=camera.quat, fovy=camera.fovy)
    for i in range(1, model.nbody + model.nsite):
        spec.worldbody.add_body(name=f"frame{i}")
    _add_skin(spec, parts)
    if textured:
        _geoms().add(spec, model, textured)
    return spec.compile()


def _add_skin(spec: Any, parts: Sequence[_Part]) -> None:
    colours, palette = _palette(parts)
    kind = mujoco.mjtTexture.mjTEXTURE_2D
    texture = spec.add_texture(
        name="palette", type=kind, width=palette.shape[1], height=CELL, nchannel=3
    )
    texture.data = palette.tobytes()
    material = spec.add_material(name="palette", specular=0.3, shininess=0.5)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "palette"
    vertices, faces = meshes.join([part.mesh for part in parts])
    frame_of = np.concatenate([np.full(len(part.mesh[0]), part.frame) for part in parts])
    cells = [(colours.index(part.rgb) + 0.5) / len(colours) for part in parts]
    lengths = [len(part.mesh[0]) for part in parts]
    u = np.repeat(np.array(cells), lengths)
    skin = spec.add_skin(name="scene", material="palette")
    skin.vert = vertices.reshape(-1).tolist()
    skin.face = faces.reshape(-1).tolist()
    skin.texcoord = np.stack([u, np.full_like(u, 0.5)], axis=1).reshape(-1).tolist()
    frames = np.unique(frame_of)
    skin.bodyname = ["world" if f == 0 else f"frame{f}" for f in frames]
    skin.bindpos = [0.0] * 3 * len(frames)
    skin.bindquat = [1.0, 0.0, 0.0, 0.0] * len(frames)
    skin.vertid = [np.flatnonzero(frame_of == f).tolist() for f in frames]
    skin.vertweight = [[1.0] * int((frame_of == f).sum()) for f in frames]


# --- Drawing


def _fixed_camera(index: int) -> Any:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
    camera.fixedcamid = index
    return camera


class Renderer:
    """Draws the states of one physics model, seen by one fixed camera, and by a moving one where
    there is an `inset`. Frames are as those of a fresh process, whatever else is drawn.

    `fixed`: names of bodies that never move, besides the world; what a fixed camera alone cannot
    see is dropped. `groups`: of geoms and sites that are drawn. `sites`: whether these are drawn
    at all. `textures`: whether images on geoms are shown.
    """

    def __init__(
        self,
        model: Any,
        *,
        camera: Camera,
        inset: Inset | None = None,
        fixed: Sequence[str] = (),
        detail: Detail = PLAIN,
        groups: Sequence[int] = GROUPS,
        sites: bool = True,
        textures: bool = False,
    ) -> None:
        check_gl()
        still = {0, *(model.body(name).id for name in fixed)}
        parts = _backdrop(model, camera)
        pose = mujoco.MjData(model)
        mujoco.mj_kinematics(model, pose)
        textured = _geoms().find(model, groups, OPAQUE) if textures else []
        single = _parts(model, detail, groups, textured) + (_sites(model, groups) if sites else [])
        for part in single:
            if part.frame in still and inset is None:
                world = _placed(part.mesh, pose.xpos[part.frame], pose.xquat[part.frame])
                seen = _visible(_Part(0, world, part.rgb), camera)
                parts += [seen] if seen else []
            else:
                parts.append(part)
        cameras = [camera]
        if inset is not None:
            cameras.append(inset.camera)
        self._model = _drawing_model(model, cameras, parts, textured)
        self._inset = inset
        self._carrier = 0 if inset is None else model.body(inset.body).id
        self._data = mujoco.MjData(self._model)
        mujoco.mj_forward(self._model, self._data)
        self._scene = mujoco.MjvScene(self._model, maxgeom=16 + len(textured))
        self._scene.flags[:] = 0  # no shadows, reflections, haze or sky box ...
        # ... and nothing of what faces away: half the time.
        self._scene.flags[mujoco.mjtRndFlag.mjRND_CULL_FACE] = 1
        self._option = mujoco.MjvOption()
        self._camera = _fixed_camera(0)
        self._inset_camera = _fixed_camera(1)
        self._pose: Any = None  # not `pose`: it would keep `model` alive, and its images
        self._turned = np.zeros(3)
        self._quat = np.zeros(4)
        self._size = 0
        self._gl: Any = None

    def draw(
        self,
        model: Any,
        data: Any,
        *,
        size: int,
        sites: Sequence[tuple[int, Float[np.ndarray, "3"]]] = (),
    ) -> UInt8[np.ndarray, "size size 3"]:
        """Return the state (`model`, `data`) as an image, its first row at the top. Neither is
        changed.

        `model` must have the bodies and sites of the one this renderer was made from, moved or not.
        `sites`: those to show elsewhere than the model says, as (index, world position in m).
        """
        if not 0 < size <= MAX_SIZE:
            raise UserError(
                f"an image of {size} pixels cannot be rendered; the largest is {MAX_SIZE}"
            )
        self._follow(model, data, sites)
        gl = self._buffer(size)
        mujoco.mjv_updateScene(
            self._model,
            self._data,
            self._option,
            None,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        rect = mujoco.MjrRect(0, 0, size, size)
        image = np.empty((size, size, 3), np.uint8)
        if self._inset is None or self._inset.share < 1:
            mujoco.mjr_render(rect, self._scene, gl)
        if self._inset:
            side = round(self._inset.share * size)
            mujoco.mjv_updateCamera(self._model, self._data, self._inset_camera, self._scene)
            mujoco.mjr_render(mujoco.MjrRect(0, size - side, side, side), self._scene, gl)
        mujoco.mjr_readPixels(image, None, rect, gl)
        return np.ascontiguousarray(image[::-1])  # GL counts rows from the bottom

    def _follow(self, model: Any, data: Any, sites: Sequence[tuple[int, np.ndarray]]) -> None:
        """Put every frame where its body or site is; kinematics run on a copy, and physics keeps
        its state."""
        if self._pose is None:
            self._pose = mujoco.MjData(model)
        pose = self._pose
        view = self._data
        n = model.nbody
        pose.qpos[:] = data.qpos
        pose.mocap_pos[:] = data.mocap_pos
        pose.mocap_quat[:] = data.mocap_quat
        mujoco.mj_kinematics(model, pose)
        view.xpos[:n] = pose.xpos
        view.xquat[:n] = pose.xquat
        view.xpos[n:] = pose.site_xpos
        for site in range(model.nsite):
            mujoco.mju_mat2Quat(view.xquat[n + site], pose.site_xmat[site])
        for site, position in sites:
            view.xpos[n + site] = position
        self._follow_geoms()
        if self._inset:
            self._carry(pose.xpos[self._carrier], pose.xquat[self._carrier], self._inset.camera)

    def _follow_geoms(self) -> None:
        """Put what is textured where its frame is."""
        model = self._model
        view = self._data
        for geom in range(model.ngeom):
            body = model.geom_bodyid[geom]
            if body:
                mujoco.mju_rotVecQuat(self._turned, model.geom_pos[geom], view.xquat[body])
                view.geom_xpos[geom] = view.xpos[body] + self._turned
                mujoco.mju_mulQuat(self._quat, view.xquat[body], model.geom_quat[geom])
                mujoco.mju_quat2Mat(view.geom_xmat[geom], self._quat)

    def _carry(
        self, pos: Float[np.ndarray, "3"], quat: Float[np.ndarray, "4"], seat: Camera
    ) -> None:
        """Put the inset's camera on its body, which is at (`pos`, `quat`)."""
        turned = np.zeros(4)
        mujoco.mju_mulPose(
            self._data.cam_xpos[1], turned, pos, quat, np.array(seat.pos), np.array(seat.quat)
        )
        mujoco.mju_quat2Mat(self._data.cam_xmat[1], turned)

    def _buffer(self, size: int) -> Any:
        """This model's GL objects, with an off-screen buffer of just `size`: clearing a larger one
        takes long."""
        _context().make_current()
        if self._gl is None:
            self._gl = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_50)
        if size != self._size:
            mujoco.mjr_resizeOffscreen(size, size, self._gl)
            self._size = size
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._gl)
        return self._gl
