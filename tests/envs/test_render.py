"""Pictures: the same whatever else this process draws, with their colours and shapes; meshes and
their cache."""

import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")

import mujoco

from irevla.envs import meshes, render
from irevla.errors import UserError

SCENE = """<mujoco><visual>
  <headlight ambient=".6 .6 .6" diffuse=".4 .4 .4" specular="0 0 0"/></visual>
<worldbody>
  <camera name="top" pos="0 0 2" fovy="60"/>
  <geom type="plane" size="3 3 .1" rgba=".2 .2 .2 1"/>
  <body name="block" pos="{x} 0 .2"><freejoint/><geom type="box" size=".3 .3 .2" rgba="{rgb} 1"/>
    <geom size=".5" rgba="1 1 1 .1"/></body>
  <site name="goal" pos="0 .7 0" size=".15" rgba="0 1 0 1"/>
  <body name="ghost" pos="0 -.7 .2">
    <geom type="box" size=".2 .2 .2" rgba="1 0 1 1" group="4"/></body>
</worldbody></mujoco>"""


def scene(x: float = 0.0, rgb: str = ".9 .1 .1") -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_string(SCENE.format(x=x, rgb=rgb))
    return model, mujoco.MjData(model)


def renderer(model: mujoco.MjModel) -> render.Renderer:
    return render.Renderer(model, camera=render.camera_of(model, "top"))


def at(picture: np.ndarray, x: float, y: float) -> list[int]:
    """The colour at (x, y) m on the ground below the top camera."""
    half, size = 2 * np.tan(np.radians(30)), len(picture)
    return picture[int((1 - y / half) / 2 * size), int((x / half + 1) / 2 * size)].tolist()


def test_what_is_drawn_is_where_it_is_in_its_colour() -> None:
    model, data = scene(x=-0.4)
    data.qpos[0] = 0.5  # moved: the picture follows the state, not the model
    picture = renderer(model).draw(model, data, size=64)
    red, ground, goal, ghost = (
        at(picture, 0.5, 0),
        at(picture, -0.5, 0),
        at(picture, 0, 0.7),
        at(picture, 0, -0.7),
    )
    assert red[0] > 4 * red[1] and red[0] > 150
    assert goal[1] > 4 * goal[0] and goal[1] > 150
    assert max(ground) - min(ground) < 5 and ghost == ground  # group 4 is not drawn


def test_sites_can_be_shown_elsewhere() -> None:
    model, data = scene()
    picture = renderer(model).draw(model, data, size=64, sites=[(0, np.array([0.0, -0.7, 0.0]))])
    assert at(picture, 0, -0.7)[1] > 150
    assert at(picture, 0, 0.7)[1] < 100


def test_an_inset_moves_with_its_body_and_leaves_the_rest_alone() -> None:
    model, data = scene(x=-0.4)
    above = render.Camera(
        (0.0, 0.0, 1.0), (1.0, 0.0, 0.0, 0.0), 60.0
    )  # looks down on the block that carries it
    front = render.camera_of(model, "top")
    both = render.Renderer(model, camera=front, inset=render.Inset("block", above, 0.375))
    seen = []
    for x in (-0.4, 0.3):
        data.qpos[0] = x
        drawn, alone = both.draw(model, data, size=64), renderer(model).draw(model, data, size=64)
        assert (
            drawn[12, 12, 0] > 150 and drawn[12, 12, 1] < 60
        )  # the block stays in the middle of the inset
        seen.append(drawn[:24, :24].copy())
        drawn[:24, :24] = alone[:24, :24]
        assert np.array_equal(drawn, alone)
    assert not np.array_equal(*seen)  # the goal passes by


def test_drawing_leaves_physics_alone() -> None:
    model, data = scene()
    mujoco.mj_step(model, data, nstep=5)
    before = [
        getattr(data, name).copy()
        for name in ("qpos", "qvel", "xpos", "site_xpos", "qacc_warmstart")
    ]
    renderer(model).draw(model, data, size=64)
    after = [
        getattr(data, name) for name in ("qpos", "qvel", "xpos", "site_xpos", "qacc_warmstart")
    ]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


FRESH = """
import sys, numpy as np
from tests.envs.test_render import scene, renderer
model, data = scene(x=float(sys.argv[1]), rgb=sys.argv[2])
np.save(sys.argv[3], renderer(model).draw(model, data, size=64))
"""


def test_the_model_that_a_renderer_was_made_from_may_go() -> None:
    """LIBERO makes it from one with large images, of 0.2 GB, and draws another's states."""
    whole = scene()[0]
    physics, data = scene(0.3)
    light = renderer(whole)
    gone = weakref.ref(whole)
    del whole
    light.draw(physics, data, size=16)
    assert gone() is None


def test_models_drawn_in_turn_look_as_each_does_alone(tmp_path: Path) -> None:
    looks = [(-0.4, ".9 .1 .1"), (0.4, ".1 .1 .9")]
    alone = []
    for i, (x, rgb) in enumerate(looks):
        file = tmp_path / f"{i}.npy"
        subprocess.run(
            [sys.executable, "-c", FRESH, str(x), rgb, str(file)],
            check=True,
            cwd=Path(__file__).parents[2],
        )
        alone.append(np.load(file))
    assert not np.array_equal(alone[0], alone[1])
    scenes = [scene(x, rgb) for x, rgb in looks]
    renderers = [renderer(model) for model, _ in scenes]
    for size in (64, 32, 64, 200, 64):
        for r, (model, data), picture in zip(renderers, scenes, alone, strict=True):
            drawn = r.draw(model, data, size=size)
            assert (
                drawn.shape == (size, size, 3) and len(np.unique(drawn.reshape(-1, 3), axis=0)) > 3
            )
            assert size != 64 or np.array_equal(drawn, picture)
            assert at(drawn, 0, 0.7)[1] > 150  # the goal: the whole picture at any size
    del renderers[0], r  # freeing one must not harm the other
    assert np.array_equal(renderers[0].draw(*scenes[1], size=64), alone[1])


NO_OSMESA = """
import ctypes
load = ctypes.CDLL.__init__
def absent(self, name, *args, **kwargs):
    if "OSMesa" in str(name):
        raise OSError("absent")
    load(self, name, *args, **kwargs)
ctypes.CDLL.__init__ = absent
from irevla.envs import render
render.check_gl()
"""


def test_a_missing_gl_library_is_told_with_the_remedy() -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYOPENGL_PLATFORM"} | {
        "MUJOCO_GL": "osmesa"
    }
    done = subprocess.run(
        [sys.executable, "-c", NO_OSMESA], capture_output=True, text=True, env=env
    )
    assert done.stderr.splitlines()[-1].startswith("irevla.errors.UserError: MuJoCo cannot draw")
    assert "apt-get install libosmesa6" in done.stderr.splitlines()[-1]


def test_a_picture_must_fit() -> None:
    model, data = scene()
    with pytest.raises(UserError, match="1024"):
        renderer(model).draw(model, data, size=5000)


# --- Meshes


def ball(rings: int = 60) -> meshes.Mesh:
    angle = np.linspace(-np.pi / 2, np.pi / 2, rings)
    return meshes.revolve(np.r_[0, np.cos(angle)[1:-1], 0], np.sin(angle), rings)


@pytest.mark.parametrize("shape", [meshes.box, meshes.cylinder, meshes.capsule, meshes.ellipsoid])
def test_primitives_are_closed_and_face_outwards(shape: object) -> None:
    size = np.array([0.5, 0.5, 0.5])
    vertices, faces = shape(size)  # type: ignore[operator]
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
    exact = {
        "box": 1.0,
        "cylinder": np.pi / 4,
        "capsule": np.pi / 4 + np.pi / 6,
        "ellipsoid": np.pi / 6,
    }[shape.__name__]  # type: ignore[attr-defined]
    assert 0.8 * exact < volume < 1.01 * exact  # inward faces would make it smaller, or negative


def test_decimation_keeps_the_shape() -> None:
    fine = ball()
    vertices, faces = meshes.decimate(fine, 150)
    assert len(fine[1]) > 3000 and 50 < len(faces) <= 200
    assert (
        np.linalg.norm(vertices, axis=1).min() > 0.85
        and np.linalg.norm(vertices, axis=1).max() < 1.1
    )


def test_small_meshes_keep_every_face_and_their_edges() -> None:
    vertices, faces = meshes.decimate(meshes.box(np.ones(3)), 150)
    assert len(faces) == 12 and len(vertices) == 24  # 8 corners, each with one vertex for each side


def test_the_cache_is_used_and_survives_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IREVLA_CACHE", str(tmp_path))
    first = meshes.cached(ball(), 150)
    (file,) = (tmp_path / "meshes").glob("*.npz")
    good = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(meshes, "decimate", lambda *_: pytest.fail("read from disk, please"))
        assert np.array_equal(meshes.cached(ball(), 150)[1], first[1])
    for damage in (good[: len(good) // 2], b"", b"x" * 100, good[:200] + b"\0" * 100 + good[300:]):
        file.write_bytes(damage)
        again = meshes.cached(ball(), 150)
        assert np.array_equal(again[0], first[0]) and np.array_equal(again[1], first[1])
        assert file.read_bytes() == good  # put right on disk too
    meshes.cached(ball(), 100)
    assert (
        len(list((tmp_path / "meshes").iterdir())) == 2
    )  # another setting is another file; nothing is left aside


WRITE = """
import numpy as np
from irevla.envs import meshes
from tests.envs.test_render import ball
for k in range(20):
    mesh = meshes.cached(ball(30), 100 + k % 4)
    assert len(mesh[1]) > 50
    for file in (meshes.cache_dir()).glob("*.npz"):
        if k % 2:
            file.unlink(missing_ok=True)
"""


def test_processes_may_write_the_cache_at_once(tmp_path: Path) -> None:
    env = {**os.environ, "IREVLA_CACHE": str(tmp_path)}
    root = Path(__file__).parents[2]
    workers = [subprocess.Popen([sys.executable, "-c", WRITE], env=env, cwd=root) for _ in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert not list((tmp_path / "meshes").glob("*.tmp"))
