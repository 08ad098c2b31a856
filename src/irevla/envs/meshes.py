"""Triangles for a light image: primitives, decimated meshes, and their cache on disk. Numpy in,
numpy out; no simulator.

A `Mesh` is (vertices `V x 3` float32, faces `F x 3` int32). Vertices are shared where the surface
is smooth and doubled at creases, because the drawing averages normals over shared vertices.
"""

import hashlib
import os
import tempfile
import zipfile
from pathlib import Path

import fast_simplification
import numpy as np
from jaxtyping import Float, Int

from irevla.storage import disk

# Several meshes meet in one function: their lengths have no name.
Vertices = Float[np.ndarray, "_ 3"]
Faces = Int[np.ndarray, "_ 3"]
Mesh = tuple[Vertices, Faces]

VERSION = 2  # of what is stored in the cache; raise it when `decimate` gives something else
RICH = 2000  # meshes of more faces are put on a grid before decimation ...
CELLS = 20  # ... of this many cells along their longest side
CREASE = 40.0  # edges between faces that meet at a greater angle stay sharp, degrees


def cache_dir() -> Path:
    """Return where decimated meshes are kept."""
    return disk.cache_dir("meshes")


# --- Primitives, in MuJoCo's conventions: `size` holds half lengths, and the axis of cylinders and
# capsules is z.


def box(size: Float[np.ndarray, "3"]) -> Mesh:
    """A box of half lengths `size`; each side has vertices of its own, so that edges stay sharp."""
    corners: list[np.ndarray] = []
    faces = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            side = np.zeros((4, 3))
            side[:, axis] = sign
            side[:, (axis + 1) % 3] = [-1, 1, 1, -1]
            side[:, (axis + 2) % 3] = [-1, -1, 1, 1]
            order = [[0, 1, 2], [0, 2, 3]] if sign > 0 else [[0, 2, 1], [0, 3, 2]]
            faces.append(np.array(order) + 4 * len(corners))
            corners.append(side * size)
    return _mesh(np.concatenate(corners), np.concatenate(faces))


def plane(size: Float[np.ndarray, "3"]) -> Mesh:
    """A rectangle facing +z. MuJoCo's size 0 means without end: 10 m is far enough for an
    image."""
    x, y = np.where(size[:2] > 0, size[:2], 10.0)
    corners = np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]])
    return _mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]))


def revolve(
    radii: Float[np.ndarray, " R"], heights: Float[np.ndarray, " R"], slices: int = 12
) -> Mesh:
    """A body of revolution around z through the rings (radius, height), from the bottom up; radius
    0 makes a tip."""
    angle = np.arange(slices) * 2 * np.pi / slices
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(slices)], axis=1)
    vertices = np.concatenate([ring * r + [0, 0, z] for r, z in zip(radii, heights, strict=True)])
    here = np.arange(slices)
    after = (here + 1) % slices
    faces = []
    for low in range(len(radii) - 1):
        a = low * slices + here
        b = low * slices + after
        c = b + slices
        d = a + slices
        if radii[low] > 0:
            faces.append(np.stack([a, b, c], axis=1))
        if radii[low + 1] > 0:
            faces.append(np.stack([a, c, d], axis=1))
    return _mesh(vertices, np.concatenate(faces))


def ellipsoid(size: Float[np.ndarray, "3"], stacks: int = 7) -> Mesh:
    """An ellipsoid of half axes `size`."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, stacks)
    radii = np.cos(angle)
    radii[[0, -1]] = 0.0
    vertices, faces = revolve(radii, np.sin(angle), 10)
    return _mesh(vertices * size, faces)


def cylinder(size: Float[np.ndarray, "3"]) -> Mesh:
    """A cylinder of radius `size[0]` and half length `size[1]`; the rims are doubled, so that the
    caps stay flat."""
    r = float(size[0])
    h = float(size[1])
    sides = revolve(np.array([r, r]), np.array([-h, h]))
    bottom = revolve(np.array([0.0, r]), np.array([-h, -h]))
    top = revolve(np.array([r, 0.0]), np.array([h, h]))
    return join([bottom, sides, top])


def capsule(size: Float[np.ndarray, "3"]) -> Mesh:
    """A cylinder of radius `size[0]` and half length `size[1]` with a half sphere on each end."""
    r = float(size[0])
    h = float(size[1])
    half = r / np.sqrt(2)
    return revolve(
        np.array([0, half, r, r, half, 0]), np.array([-h - r, -h - half, -h, h, h + half, h + r]), 8
    )


def _mesh(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    return vertices.astype(np.float32), faces.astype(np.int32)


def join(meshes: list[Mesh]) -> Mesh:
    """Several meshes as one."""
    offsets = np.cumsum([0] + [len(v) for v, _ in meshes])
    return _mesh(
        np.concatenate([v for v, _ in meshes]),
        np.concatenate([f + o for (_, f), o in zip(meshes, offsets, strict=False)]),
    )


# --- Decimation


def decimate(mesh: Mesh, target: int, cells: int = CELLS) -> Mesh:
    """About `target` faces that look like `mesh`, by quadric error, creases kept sharp. Slow: use
    `cached`.

    Quadric collapse cannot join loose pieces (screws, inner shells) and tears holes instead: rich
    meshes are first put on a grid.
    """
    vertices, faces = weld(mesh, 1e-6)
    if len(faces) > RICH:
        vertices, faces = weld((vertices, faces), float(np.ptp(vertices, axis=0).max()) / cells)
    if len(faces) > target:
        vertices, faces = fast_simplification.simplify(vertices, faces, target_count=target, agg=5)
    return crease(_mesh(vertices, faces))


def weld(mesh: Mesh, grid: float) -> Mesh:
    """Vertices in one cell of `grid` (m) made one, at their mean; faces without area or drawn twice
    dropped."""
    _, index, count = np.unique(
        np.round(mesh[0] / grid), axis=0, return_inverse=True, return_counts=True
    )
    vertices = np.zeros((len(count), 3))
    np.add.at(vertices, index.reshape(-1), mesh[0])
    faces = index.reshape(-1)[mesh[1]].reshape(-1, 3)
    faces = faces[
        (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    ]
    _, once = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return _mesh(vertices / count[:, None], faces[np.sort(once)])


def crease(mesh: Mesh, degrees: float = CREASE) -> Mesh:
    """Double the vertices along sharp edges. Two faces share a vertex only if smooth edges join
    them around it."""
    vertices, faces = mesh
    normals = np.cross(
        vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]
    )
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    parent = list(range(3 * len(faces)))  # a union-find over the corners of all faces

    def root(corner: int) -> int:
        while parent[corner] != corner:
            parent[corner] = parent[parent[corner]]
            corner = parent[corner]
        return corner

    edges: dict[tuple[int, int], list[int]] = {}
    for face, (a, b, c) in enumerate(faces.tolist()):
        for u, v in ((a, b), (b, c), (c, a)):
            edges.setdefault((min(u, v), max(u, v)), []).append(face)
    smooth = np.cos(np.radians(degrees))
    for ends, around in edges.items():
        for other in around[1:]:
            if normals[around[0]] @ normals[other] >= smooth:
                for vertex in ends:
                    corners = (3 * f + faces[f].tolist().index(vertex) for f in (around[0], other))
                    parent[root(next(corners))] = root(next(corners))
    roots, index = np.unique([root(c) for c in range(len(parent))], return_inverse=True)
    return _mesh(vertices[faces.reshape(-1)[roots]], index.reshape(-1, 3))


# --- The cache


def cached(mesh: Mesh, target: int, cells: int = CELLS) -> Mesh:
    """`decimate`, remembered on disk by content. Safe against other processes, and against files
    cut short."""
    digest = hashlib.sha256(f"{VERSION} {target} {CREASE}".encode())
    if cells != CELLS:
        digest.update(str(cells).encode())
    digest.update(np.ascontiguousarray(mesh[0], np.float32).tobytes())
    digest.update(np.ascontiguousarray(mesh[1], np.int32).tobytes())
    path = cache_dir() / f"{digest.hexdigest()}.npz"
    found = _read(path)
    if found is None:
        found = decimate(mesh, target, cells)
        _write(path, found)
    return found


def _read(path: Path) -> Mesh | None:
    try:
        # Opened here: numpy leaves a damaged file open.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            vertices = file["vertices"]
            faces = file["faces"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # damaged: made again
    return _mesh(vertices, faces)


def _write(path: Path, mesh: Mesh) -> None:
    """Write aside, then rename: a reader sees the whole file or none. A cache that cannot be
    written is only slower."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    except OSError:
        return
    with os.fdopen(handle, "wb") as file:
        np.savez(file, vertices=mesh[0], faces=mesh[1])
    Path(aside).replace(path)
