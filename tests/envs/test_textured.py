"""Light meshes with textures: the colours stay where they were, few faces still look round."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("scipy")

import mujoco

from irevla.envs import meshes, render, textured


def globe(rings: int = 80) -> textured.Surface:
    """A ball of 10 cm, red above its equator and blue below, of thousands of faces."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, rings)
    radii = np.r_[0, np.cos(angle)[1:-1], 0]
    vertices, faces = meshes.revolve(0.1 * radii, 0.1 * np.sin(angle), rings)
    image = np.zeros((512, 512, 3), np.uint8)
    image[:256, :, 2] = 200
    image[256:, :, 0] = 200
    corners = vertices[faces]
    height = corners[..., 2] / 0.2 + 0.5
    coords = np.stack([np.full_like(height, 0.5), height.clip(0.002, 0.998)], axis=-1)
    normals = corners / np.linalg.norm(corners, axis=-1, keepdims=True)
    return textured.Surface(
        vertices, faces, normals.astype(np.float32), coords.astype(np.float32), image
    )


def colours(surface: textured.Surface) -> np.ndarray:
    """What is seen in the middle of each face."""
    middle = surface.coords.mean(axis=1)
    height, width = surface.image.shape[:2]
    return surface.image[(middle[:, 1] * height).astype(int), (middle[:, 0] * width).astype(int)]


def test_colours_stay_where_they_were() -> None:
    found = textured.paint(globe())
    assert 100 < len(found.faces) <= 1.2 * textured.FACES
    height = found.vertices[found.faces].mean(axis=1)[:, 2]
    clear = np.abs(height) > 0.02  # no face over the equator
    red = colours(found)[:, 0] > colours(found)[:, 2]
    assert (red == (height > 0))[clear].all() and clear.sum() > 50


def test_normals_are_those_of_the_thing_and_not_of_its_few_faces() -> None:
    found = textured.paint(globe())
    corners = found.vertices[found.faces]
    round_ = corners / np.linalg.norm(corners, axis=-1, keepdims=True)
    assert np.einsum("fci,fci->fc", found.normals, round_).min() > 0.9


def test_cells_of_an_image_do_not_mix() -> None:
    """A face's corners lie a texel inside its cell, and no two faces share one."""
    found = textured.paint(globe())
    height, width = found.image.shape[:2]
    texels = found.coords * [width, height]
    cells = np.unique(np.floor(texels.mean(axis=1) / textured.CELL).astype(int), axis=0)
    assert len(cells) == len(found.faces)
    inside = texels - np.floor(texels / textured.CELL) * textured.CELL
    assert inside.min() >= 0.99 and inside.max() <= textured.CELL - 0.99


def test_a_small_mesh_keeps_its_faces_and_a_large_image_shrinks() -> None:
    small = globe(12)
    found = textured.light(small)
    assert np.array_equal(found.faces, small.faces) and np.array_equal(found.coords, small.coords)
    assert found.image.shape == (textured.TEXELS, textured.TEXELS, 3)
    assert found.image.mean() == pytest.approx(small.image.mean(), abs=1)


def test_the_cache_is_used_and_survives_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IREVLA_CACHE", str(tmp_path))
    first = textured.light(globe())
    (file,) = (tmp_path / "meshes").glob("*.npz")
    good = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(textured, "paint", lambda *_: pytest.fail("read from disk, please"))
        assert np.array_equal(textured.light(globe()).image, first.image)
    for damage in (good[: len(good) // 2], b"", b"x" * 100):
        file.write_bytes(damage)
        assert np.array_equal(textured.light(globe()).image, first.image)
        assert file.read_bytes() == good
    assert len(list((tmp_path / "meshes").iterdir())) == 1


SCENE = """<mujoco>
<asset>
  <texture name="two" type="2d" builtin="checker" rgb1="1 0 0" rgb2="0 0 1" width="64" height="64"/>
  <material name="two" texture="two" texrepeat="1 1"/>
  <material name="plain" rgba="0 1 0 1"/>
</asset>
<visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
<worldbody>
  <camera name="top" pos="0 0 2" fovy="60"/>
  <body name="plate" pos="-.4 0 .2"><freejoint/>
    <geom type="box" size=".3 .3 .1" material="two" group="1"/></body>
  <geom type="box" size=".1 .1 .1" pos=".8 0 .2" material="plain" group="1"/>
  <geom type="box" size=".4 .4 .4" pos="0 .8 0" rgba="1 1 1 1" group="0"/>
</worldbody></mujoco>"""


def test_images_on_geoms_are_drawn_where_their_bodies_are() -> None:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = render.camera_of(model, "top")
    shown = render.Renderer(model, camera=camera, groups=(1,), textures=True)
    for x in (-0.4, 0.2):
        data.qpos[0] = x
        image = shown.draw(model, data, size=96).astype(int)
        reds = np.argwhere((image[..., 0] > 150) & (image[..., 2] < 80))
        blues = np.argwhere((image[..., 2] > 150) & (image[..., 0] < 80))
        middle = np.concatenate([reds, blues]).mean(axis=0)
        assert min(len(reds), len(blues)) > 100
        assert abs(middle[1] - 48 * (1 + x / (1.7 * np.tan(np.pi / 6)))) < 4
        assert ((image[..., 1] > 150) & (image[..., 0] < 80)).sum() > 20  # what has no image
        assert image[:20, 40:56].max() < 60  # another group
    plain = render.Renderer(model, camera=camera, groups=(1,))
    assert (plain.draw(model, data, size=96)[..., 0] > 150).sum() == 0  # the mean colour: violet
