"""Meshes with textures, made light: fewer faces, and a small image in the place of a large one.

A scanned thing has tens of thousands of faces and an image of 4096 texels a side. Decimation loses
the way in which the image lies on the faces, so it is painted anew: each face of the light mesh has
a square cell of a small image, whose texels take the colour of the nearest point of the thing as it
was. Normals come from there too, so that few faces still look round. Numpy in, numpy out.
"""

import hashlib
import io
import tempfile
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from irevla.envs import meshes

VERSION = 1  # of what is stored in the cache; raise it when `paint` gives something else
FACES = 500  # of a light mesh, about
CELLS = 40  # meshes of more than `RICH` faces are put on a grid of so many cells first
RICH = 4000
CELL = 8  # texels along the side of a face's cell ...
FURNITURE_CELL = 16  # ... and of what is larger than `FURNITURE`
FURNITURE = 0.5  # m
SAMPLES = 200_000  # points of a thing as it was, for each texel along the side of its cells / 8
TEXELS = 256  # side of an image that is kept as it is; larger ones are averaged down
FACING = 0.15  # of a thing's size: how far away a point that faces away seems


@dataclass(frozen=True)
class Surface:
    """A mesh and the image on it. Normals and texture coordinates are of each corner of a face."""

    vertices: Float32[np.ndarray, "V 3"]
    faces: Int32[np.ndarray, "F 3"]
    normals: Float32[np.ndarray, "F 3 3"]
    coords: Float32[np.ndarray, "F 3 2"]
    image: UInt8[np.ndarray, "h w 3"]


def shrunk(image: UInt8[np.ndarray, "h w 3"], side: int = TEXELS) -> UInt8[np.ndarray, "H W 3"]:
    """Return the image with at most about `side` texels along each side, each the mean of what it
    stands for."""
    by = max(1, -(-max(image.shape[:2]) // side))
    rows = image.shape[0] // by
    columns = image.shape[1] // by
    blocks = image[: rows * by, : columns * by].reshape(rows, by, columns, by, 3)
    mean: np.ndarray = blocks.mean(axis=(1, 3))
    return mean.round().astype(np.uint8)


def light(surface: Surface) -> Surface:
    """Return what looks like `surface` and is soon drawn. Remembered on disk."""
    if len(surface.faces) <= FACES:
        return Surface(
            surface.vertices,
            surface.faces,
            surface.normals,
            surface.coords,
            shrunk(surface.image),
        )
    path = meshes.cache_dir() / f"{_digest(surface)}.npz"
    found = _read(path)
    if found is None:
        found = paint(surface)
        _write(path, found)
    return found


def paint(surface: Surface) -> Surface:
    """Decimate, and paint each new face from the nearest points of the old ones. Slow: use
    `light`."""
    from scipy.spatial import cKDTree

    vertices, faces = _decimated((surface.vertices, surface.faces))
    size = float(np.ptp(vertices, axis=0).max())
    cell = _cell(surface)
    points, colours, normals = _samples(surface, SAMPLES * cell // 8)
    tree = cKDTree(np.concatenate([points, FACING * size * normals], axis=1))
    faces = faces[_along_a_curve(vertices, faces)]
    flat = _face_normals(vertices, faces)

    def nearest(at: np.ndarray) -> np.ndarray:
        facing = np.repeat(FACING * size * flat[:, None], at.shape[1], axis=1)
        query = np.concatenate([at, facing], axis=2)
        index: np.ndarray = tree.query(query.reshape(-1, 6))[1]
        return index.reshape(at.shape[:2])

    corners = vertices[faces]
    cells = colours[nearest(_texel_points(corners, cell))].reshape(len(faces), cell, cell, 3)
    image, coords = _sheet(cells)
    smooth = normals[nearest(corners)]
    return Surface(vertices, faces, smooth.astype(np.float32), coords, image)


def _cell(surface: Surface) -> int:
    large = np.ptp(surface.vertices, axis=0).max() > FURNITURE
    return FURNITURE_CELL if large else CELL


def _decimated(mesh: meshes.Mesh) -> meshes.Mesh:
    import fast_simplification

    vertices, faces = meshes.weld(mesh, 1e-6)
    if len(faces) > RICH:
        cell = float(np.ptp(vertices, axis=0).max()) / CELLS
        vertices, faces = meshes.weld((vertices, faces), cell)
    if len(faces) > FACES:
        vertices, faces = fast_simplification.simplify(vertices, faces, target_count=FACES, agg=5)
    kept = np.linalg.norm(_cross(vertices, faces), axis=1) > 1e-12
    return vertices.astype(np.float32), faces[kept].astype(np.int32)


def _cross(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = np.moveaxis(vertices[faces].astype(np.float64), 1, 0)
    found: np.ndarray = np.cross(b - a, c - a)
    return found


def _face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    cross = _cross(vertices, faces)
    normals: np.ndarray = cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-12)
    return normals


def _samples(surface: Surface, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """About so many points all over the surface, with their colours and normals; always the
    same."""
    random = np.random.default_rng(0)
    area = np.linalg.norm(_cross(surface.vertices, surface.faces), axis=1)
    count = np.maximum(1, np.round(number * area / area.sum())).astype(int)
    of = np.repeat(np.arange(len(count)), count)
    weights = random.dirichlet([1.0, 1.0, 1.0], len(of))[..., None]
    points = (weights * surface.vertices[surface.faces[of]]).sum(axis=1)
    normals = (weights * surface.normals[of]).sum(axis=1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    coords = (weights * surface.coords[of]).sum(axis=1)
    image = shrunk(surface.image, 2 * TEXELS)
    height, width = image.shape[:2]
    column = np.floor(coords[:, 0] * width).astype(int) % width
    row = np.floor(coords[:, 1] * height).astype(int) % height
    return points, image[row, column], normals


def _along_a_curve(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """An order of the faces in which neighbours are near each other: far away, when texels are
    averaged, a face shows a little of the cells beside its own."""
    centre = vertices[faces].mean(axis=1)
    span = np.maximum(np.ptp(centre, axis=0), 1e-9)
    grid = ((centre - centre.min(axis=0)) / span * 15.99).astype(int)
    normal = _face_normals(vertices, faces)
    side = np.abs(normal).argmax(axis=1) * 2 + (
        np.take_along_axis(normal, np.abs(normal).argmax(axis=1)[:, None], axis=1)[:, 0] > 0
    )
    code = np.zeros(len(faces), int)
    for bit in range(4):
        for axis in range(3):
            code |= ((grid[:, axis] >> bit) & 1) << (3 * bit + axis)
    return np.lexsort((code, side))


def _texel_points(corners: np.ndarray, cell: int) -> np.ndarray:
    """Where the texels of each face's cell lie: [F, cell * cell, 3]. The face is the lower left
    half of the cell; the other half repeats what is on the diagonal."""
    at = (np.arange(cell) - 0.5) / (cell - 2)  # so that a corner is one texel from the edge
    v, u = np.meshgrid(at, at, indexing="ij")
    u = u.reshape(-1).clip(0, 1)
    v = v.reshape(-1).clip(0, 1)
    over = np.maximum(1.0, u + v)
    weights = np.stack([1 - (u + v) / over, u / over, v / over], axis=1)
    found: np.ndarray = np.einsum("tc,fcd->ftd", weights, corners.astype(np.float64))
    return found


def _sheet(cells: UInt8[np.ndarray, "F c c 3"]) -> tuple[np.ndarray, np.ndarray]:
    """All cells in one image, row by row, and the texture coordinates of each face's corners."""
    side = cells.shape[1]
    across = int(np.ceil(np.sqrt(len(cells))))
    down = -(-len(cells) // across)
    image = np.zeros((down, side, across, side, 3), np.uint8)
    row, column = np.divmod(np.arange(len(cells)), across)
    image[row, :, column] = cells
    inside = np.array([[1.0, 1.0], [side - 1.0, 1.0], [1.0, side - 1.0]])
    corner = np.stack([column, row], axis=1)[:, None] * side + inside
    coords = corner / [across * side, down * side]
    return image.reshape(down * side, across * side, 3), coords.astype(np.float32)


# --- The cache


def _digest(surface: Surface) -> str:
    settings = (VERSION, FACES, CELLS, RICH, _cell(surface), SAMPLES, TEXELS)
    digest = hashlib.sha256(repr(settings).encode())
    for each in fields(surface):
        digest.update(np.ascontiguousarray(getattr(surface, each.name)).tobytes())
    return digest.hexdigest()


def _read(path: Path) -> Surface | None:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return Surface(*(file[each.name] for each in fields(Surface)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # damaged: made again


def _write(path: Path, surface: Surface) -> None:
    """Write aside, then rename. A cache that cannot be written is only slower."""
    content = io.BytesIO()
    np.savez(content, **{each.name: getattr(surface, each.name) for each in fields(surface)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as aside:
            aside.write(content.getvalue())
        Path(aside.name).replace(path)
    except OSError:
        return
