import functools

import mujoco
import numpy as np
import pytest

from irevla.envs.metaworld.stock import stock
from irevla.envs.metaworld.tasks import SPECS, Variant
from irevla.pretraining import palette
from irevla.pretraining.arm import PALM
from irevla.pretraining.objects import SCENES, SceneFile
from irevla.pretraining.scenes import Scene, load_scene, models_folder

VARIED = {name: spec for name, spec in SPECS.items() if spec.variant != Variant()}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- RL and unseen tasks stay unseen


def played_in(skill: str) -> str:
    return str(stock(skill).fullpath.split("/")[-1].removesuffix(".xml"))


def painted_here(scene: SceneFile) -> set[str]:
    return {
        material
        for materials in load_scene(scene.name).materials.values()
        for material in materials
    }


def relatives(name: str) -> list[SceneFile]:
    """All scenes with the object that the variant `name` recolours."""
    return [scene for scene in SCENES if painted_here(scene) & set(VARIED[name].variant.recolour)]


@functools.cache
def unpainted(name: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(models_folder() / f"{name}.xml"))


@pytest.mark.parametrize("name", VARIED)
def test_a_held_out_object_is_known_by_its_materials(name: str) -> None:
    """Nothing that is called the same escapes for having other materials, and each has the stock
    task's own colours."""
    spec, own = VARIED[name], played_in(VARIED[name].skill)
    assert [scene.name for scene in SCENES if spec.skill in scene.skills] == [own]
    assert own in {scene.name for scene in relatives(name)} and spec.variant.handle is not None
    called = {obj.name for scene in SCENES if scene.name == own for obj in scene.objects}
    namesakes = {scene.name for scene in SCENES if called & {obj.name for obj in scene.objects}}
    assert namesakes <= {scene.name for scene in relatives(name)}
    for scene in relatives(name):
        for material in painted_here(scene) & painted_here(load_scene(own).scene):
            np.testing.assert_allclose(
                unpainted(scene.name).mat(material).rgba, unpainted(own).mat(material).rgba
            )


@pytest.mark.parametrize("name", VARIED)
def test_no_object_is_painted_like_a_held_out_variant_of_it(name: str) -> None:
    """In any scene: the button that is pressed from above is not green either, nor the door that is
    locked."""
    variant, painted = VARIED[name].variant, 0
    assert variant.handle is not None
    for scene in relatives(name):
        built, random = load_scene(scene.name), rng()
        object_ = next(
            materials
            for materials in built.materials.values()
            if set(materials) & set(variant.recolour)
        )
        for number in range(10):
            if number >= 4 and painted > 4:
                break
            built.dress(random)
            for material in set(object_) & built.appearance.paint.keys():  # type: ignore[union-attr]
                painted += 1
                rgb = built.model.mat(material).rgba[:3]
                for colour in (*variant.recolour.values(), variant.handle.colour):
                    assert np.linalg.norm(rgb - colour) >= palette.HELD_OUT - 1e-6
    assert painted > 4


def test_a_sampled_colour_keeps_its_distance_and_has_its_name() -> None:
    avoid, random = palette.held_out(("window_red",)), rng()
    assert len(avoid) >= 5
    names = set()
    for _ in range(300):
        name, rgb = palette.sample(random, avoid)
        names.add(name)
        assert min(np.linalg.norm(np.array(rgb) - other) for other in avoid) >= palette.HELD_OUT
    assert "purple" not in names and {"red", "brown", "black"} <= names
    assert palette.held_out(("dial_red",)) == ()


# --- what is true of an image


@pytest.fixture(scope="module")
def table() -> Scene:
    return load_scene("sawyer_pick_place_v3")


def test_objects_are_where_the_facts_say(table: Scene) -> None:
    """Around the pixel of a vivid toy are pixels of its colour; a few hide behind the arm."""
    random, hits, flipped = rng(1), [], set()
    for _ in range(60):
        appearance = table.dress(random)
        flipped.add(appearance.view.flipped)
        facts, size = table.pose(random), 128
        image = table.image(size).astype(float)
        for toy in facts.objects:
            if toy.visible and toy.size == "big" and toy.colour in ("red", "blue", "green"):
                column, row = (int(size * share) for share in toy.pixel)
                r, g, b = (
                    image[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                    .reshape(-1, 3)
                    .mean(0)
                )
                channel = {"red": (r, g, b), "green": (g, r, b), "blue": (b, r, g)}[toy.colour]
                hits.append(channel[0] > 1.2 * max(channel[1:]))
    assert len(hits) > 9 and np.mean(hits) > 0.8 and flipped == {True, False}


def test_a_scene_is_a_function_of_its_generator_alone() -> None:
    drawer, shown = load_scene("sawyer_drawer"), []
    for other in (5, 6):
        drawer.dress(rng(other))  # whatever came before
        drawer.pose(rng(other))
        random = rng(7)
        drawer.dress(random)
        facts = drawer.pose(random)
        shown.append((drawer.image(64), [obj.pixel for obj in (*facts.objects, facts.hand)]))
    assert np.array_equal(shown[0][0], shown[1][0]) and np.allclose(shown[0][1], shown[1][1])


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_every_scene_file_can_be_posed_and_spoken_of(scene: object) -> None:
    built = load_scene(scene.name)  # type: ignore[attr-defined]
    random = rng(2)
    built.dress(random)
    facts = built.pose(random)
    points = [obj.point for obj in (*facts.objects, *facts.parts, facts.hand)]
    assert np.isfinite(points).all() and (np.abs(np.array(points)) < 1.6).all()
    assert built.image(32).std() > 5
    assert len(facts.tasks) == sum(len(obj.tasks) for obj in scene.objects)  # type: ignore[attr-defined]


def test_the_arm_reaches_with_the_hand_pointing_down(table: Scene) -> None:
    table.dress(rng())
    for target in ([0.0, 0.6, 0.2], [0.3, 0.75, 0.1], [-0.3, 0.5, 0.3]):
        assert table.arm.reach(table.model, table.data, np.array(target))
        np.testing.assert_allclose(table.data.body("hand").xpos, target, atol=0.01)
        tip = table.arm.tip(table.data)
        np.testing.assert_allclose(
            tip, [target[0], target[1], target[2] - PALM], atol=0.015
        )  # straight below it
    assert not table.arm.reach(table.model, table.data, np.array([2.0, 2.0, 2.0]))


def test_the_gripper_opens_and_closes(table: Scene) -> None:
    random, widths = rng(3), {}
    for _ in range(40):
        opening = table.arm.pose(table.model, table.data, random)
        width = np.linalg.norm(table.data.body("rightpad").xpos - table.data.body("leftpad").xpos)
        widths[opening] = float(width)
    assert {0.0, 1.0} <= widths.keys() and widths[1.0] > widths[0.0] + 0.03


def test_the_models_are_the_installed_ones() -> None:
    names = {path.stem for path in models_folder().glob("*.xml")}
    assert {scene.name for scene in SCENES} <= names
