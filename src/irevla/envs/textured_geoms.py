"""From the textured geoms of a physics model to those of a drawing model."""

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from jaxtyping import UInt8

from irevla.envs.textured import Surface, light, shrunk

SHINE = ("emission", "specular", "shininess", "rgba", "texrepeat", "texuniform")
GLOW = 0.5  # emission of what mirrors everything
RGB = mujoco.mjtTextureRole.mjTEXROLE_RGB


def find(model: Any, groups: Sequence[int], opaque: float) -> list[int]:
    """Return the geoms that have an image on them and know how it lies; of materials of at least
    that alpha."""
    found = []
    for g in range(model.ngeom):
        material = int(model.geom_matid[g])
        if material < 0 or model.geom_group[g] not in groups:
            continue
        image = int(model.mat_texid[material, RGB])
        mesh = model.geom_type[g] == mujoco.mjtGeom.mjGEOM_MESH
        lies = not mesh or model.mesh_texcoordadr[model.geom_dataid[g]] >= 0
        if image >= 0 and lies and model.mat_rgba[material][3] >= opaque:
            found.append(g)
    return found


def add(spec: Any, model: Any, geoms: Sequence[int]) -> None:
    """Add the geoms of `model` to `spec`, in its bodies "frame1", "frame2", ... and the world.

    Primitives carry their own image as MuJoCo lays it; meshes are made light (`textured.light`).
    """
    images: dict[tuple[int, float], str] = {}
    for g in geoms:
        frame = int(model.geom_bodyid[g])
        body = spec.body(f"frame{frame}") if frame else spec.worldbody
        material = int(model.geom_matid[g])
        place = {"pos": model.geom_pos[g], "quat": model.geom_quat[g]}
        if model.geom_type[g] == mujoco.mjtGeom.mjGEOM_MESH:
            surface = light(_surface(model, g))
            image = _texture(spec, f"surface{g}", surface.image)
            mirror = 0.0
            _mesh(spec, f"surface{g}", surface)
            shape = {"type": mujoco.mjtGeom.mjGEOM_MESH, "meshname": f"surface{g}"}
        else:
            texture = int(model.mat_texid[material, RGB])
            mirror = float(model.mat_reflectance[material])
            if (texture, mirror) not in images:
                images[texture, mirror] = _copy(spec, model, texture, mirror)
            image = images[texture, mirror]
            kind = mujoco.mjtGeom(int(model.geom_type[g]))
            shape = {"type": kind, "size": model.geom_size[g]}
        name = _material(spec, model, material, image, GLOW * mirror)
        body.add_geom(material=name, contype=0, conaffinity=0, **shape, **place)


def _image(model: Any, texture: int) -> UInt8[np.ndarray, "h w 3"]:
    start = model.tex_adr[texture]
    height = int(model.tex_height[texture])
    width = int(model.tex_width[texture])
    channels = int(model.tex_nchannel[texture])
    flat = model.tex_data[start : start + height * width * channels]
    image: np.ndarray = flat.reshape(height, width, channels)[..., :3]
    return image


def _surface(model: Any, geom: int) -> Surface:
    mesh = int(model.geom_dataid[geom])

    def rows(name: str, start: str, count: str) -> np.ndarray:
        first = getattr(model, start)[mesh]
        found: np.ndarray = getattr(model, name)[first : first + getattr(model, count)[mesh]]
        return found

    faces = rows("mesh_face", "mesh_faceadr", "mesh_facenum")
    normals = rows("mesh_normal", "mesh_normaladr", "mesh_normalnum")
    coords = rows("mesh_texcoord", "mesh_texcoordadr", "mesh_texcoordnum")
    material = int(model.geom_matid[geom])
    return Surface(
        rows("mesh_vert", "mesh_vertadr", "mesh_vertnum"),
        faces,
        normals[rows("mesh_facenormal", "mesh_faceadr", "mesh_facenum")],
        coords[rows("mesh_facetexcoord", "mesh_faceadr", "mesh_facenum")],
        _image(model, int(model.mat_texid[material, RGB])),
    )


def _mesh(spec: Any, name: str, surface: Surface) -> None:
    corners = np.arange(surface.faces.size, dtype=np.int32)
    mesh = spec.add_mesh(name=name, inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
    mesh.uservert = surface.vertices[surface.faces].reshape(-1)
    mesh.usernormal = surface.normals.reshape(-1)
    mesh.usertexcoord = surface.coords.reshape(-1)
    mesh.userface = corners
    mesh.userfacetexcoord = corners


def _texture(spec: Any, name: str, image: UInt8[np.ndarray, "h w 3"], kind: Any = None) -> str:
    texture = spec.add_texture(
        name=name,
        type=mujoco.mjtTexture.mjTEXTURE_2D if kind is None else kind,
        width=image.shape[1],
        height=image.shape[0],
        nchannel=3,
    )
    texture.data = image.tobytes()
    return name


def _copy(spec: Any, model: Any, texture: int, mirror: float) -> str:
    """The same image, smaller. That of a cube has its six sides one below the other. What mirrors a
    share of its surroundings, which nothing does here, is as much paler."""
    image = (_image(model, texture) * (1 - mirror) + 255 * mirror).astype(np.uint8)
    kind = mujoco.mjtTexture(int(model.tex_type[texture]))
    if kind == mujoco.mjtTexture.mjTEXTURE_CUBE and image.shape[0] == 6 * image.shape[1]:
        image = np.concatenate([shrunk(side) for side in np.split(image, 6)])
    else:
        image = shrunk(image)
    return _texture(spec, f"image{texture}-{mirror}", image, kind)


def _material(spec: Any, model: Any, material: int, image: str, glow: float) -> str:
    name = f"{image}-{material}"
    if spec.material(name) is None:
        made = spec.add_material(name=name)
        for each in SHINE:
            setattr(made, each, getattr(model, f"mat_{each}")[material])
        made.emission = max(made.emission, glow)
        made.textures[RGB] = image
    return name
