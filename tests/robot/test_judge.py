"""The classifier as judge: images in a row, a gate, its own view, a person's veto, labelled
images."""

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import MIDDLE, FakeDriver, arm_of
from PIL import Image
from test_real_env import FORTH, STILL, FakeCamera, FakePerson, env_of, send, soon
from test_settings import written

from irevla.errors import UserError
from irevla.robot.cameras import cropped, view_of
from irevla.robot.cell import Cell
from irevla.robot.label import record
from irevla.robot.settings import WHOLE, DetectorSettings, read_settings
from irevla.robot.success import ClassifierDetector, KeyDetector
from irevla.robot.teleop import DONE, FAILED, KeyTeleop
from irevla.robot.view import VIEW, check_view, keep_view, write_view

CARROT = "pick up the carrot"
LIGHT = np.full((64, 64, 3), 200, np.uint8)
DARK = np.full((64, 64, 3), 20, np.uint8)


def bright(image: np.ndarray, instruction: str) -> bool:
    return bool(image.mean() > 100)


def detector_of(person: FakePerson, **options: object) -> ClassifierDetector:
    return ClassifierDetector(bright, person, **options)  # type: ignore[arg-type]


def test_one_image_is_no_success() -> None:
    detector = detector_of(FakePerson(), images=3)
    detector.begin()
    answers = [detector.detect(image, CARROT) for image in (LIGHT, LIGHT, DARK, LIGHT, LIGHT)]
    assert answers == [None] * 5, "they must follow each other"
    assert detector.detect(LIGHT, CARROT) is True
    detector.begin()
    assert detector.detect(LIGHT, CARROT) is None, "those of the last episode do not count"


def test_the_fingers_are_a_gate() -> None:
    shut = [False]
    detector = detector_of(FakePerson(), images=2, gate=lambda: shut[0])
    assert [detector.detect(LIGHT, CARROT) for _ in range(4)] == [None] * 4
    shut[0] = True
    assert [detector.detect(LIGHT, CARROT) for _ in range(2)] == [None, True]


def test_something_is_held_where_shut_fingers_are_apart() -> None:
    arm, driver, clock = arm_of()
    width = [0.08]
    driver.mend = lambda state: replace(state, width=width[0])
    assert not arm.holding(), "open"
    arm.set_gripper(shut=True)
    width[0] = 0.03
    assert not arm.holding(), "they may still be closing"
    clock.time += 1.5
    assert arm.holding()
    width[0] = 0.001
    assert not arm.holding(), "nothing is between them"
    driver.mend = lambda state: state
    assert not arm.holding(), "it is not known"


def test_it_sees_a_part_of_one_camera() -> None:
    front = np.zeros((40, 80, 3), np.uint8)
    front[10:20, 20:40] = 255
    side = FakeCamera(7)
    showing = FakeCamera(0)
    showing.read = lambda: front  # type: ignore[method-assign]
    cameras = {"front": showing, "wrist": FakeCamera(9), "side": side}
    chosen = DetectorSettings(camera="front", crop=(0.25, 0.25, 0.5, 0.5))
    assert (view_of(chosen, cameras, size=8) == 255).all()
    assert (view_of(DetectorSettings(camera="side"), cameras, size=8) == 7).all()
    assert (view_of(DetectorSettings(), cameras, size=8)[0, 0] == 9).all()
    assert cropped(front, (0.0, 0.0, 0.001, 0.001)).shape == (1, 1, 3)
    detector = detector_of(FakePerson(), look=lambda: LIGHT)
    assert detector.detect(DARK, CARROT) is True, "not what the policy sees"


def env_judged(folder: Path, **options: object) -> tuple[object, ...]:
    env, person, driver, clock = env_of()
    detector = detector_of(person, images=2, mistakes=folder / "mistakes", **options)
    env.cell.success_detector = detector
    env.cell.veto = 3.0
    return env, person, driver, clock


def test_a_person_takes_back_what_it_says(tmp_path: Path) -> None:
    env, person, driver, _ = env_judged(tmp_path)
    env.reset()
    person.vetoes = True
    held = driver.holds
    env.step(STILL)
    _, reward, terminated, truncated, info = env.step(FORTH)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert not info["success"] and info["vetoed"] and driver.holds > held
    assert len(list((tmp_path / "mistakes").glob("*.png"))) == 2, "failures to learn from"
    person.vetoes = False
    env.reset()
    env.step(STILL)
    _, reward, terminated, _, info = env.step(FORTH)
    assert (reward, terminated, info["vetoed"]) == (1.0, True, False)


def test_no_veto_is_asked_for_where_nothing_succeeded(tmp_path: Path) -> None:
    env, person, _, _ = env_judged(tmp_path)
    env.cell.success_detector = KeyDetector(person)
    env.reset()
    asked = len(person.asked)
    person.says = False
    assert env.step(STILL)[2] and len(person.asked) == asked


@pytest.mark.parametrize(("keys", "vetoed"), [((FAILED,), True), ((DONE,), False), ((), False)])
def test_the_keys_veto(tmp_path: Path, keys: tuple[str, ...], vetoed: bool) -> None:
    teleop = KeyTeleop(tmp_path / "keys", lambda reason: None)
    send(tmp_path / "keys", DONE)
    assert soon(teleop._said.is_set)
    sender = threading.Timer(0.05, send, (tmp_path / "keys", *keys))
    sender.start()
    assert teleop.wait_veto("done", patience=0.4) is vetoed
    sender.join()
    assert teleop.verdict() is None, "it is of this episode alone"
    teleop.close()


# --- labelled images


class Enough(Exception):
    """The person leaves."""


def cell_of(says: Callable[[], bool | None]) -> tuple[Cell, FakeDriver]:
    arm, driver, clock = arm_of(MIDDLE)
    person = FakePerson()
    person.verdict = says  # type: ignore[method-assign]
    person.hand = FORTH
    cameras = {"front": FakeCamera(200), "wrist": FakeCamera(30)}
    return Cell(arm, MIDDLE, cameras, person, KeyDetector(person), clock, None), driver


def test_images_are_labelled_while_a_person_drives(tmp_path: Path) -> None:
    says = itertools.chain([None, True, True, False, None], itertools.repeat(None))
    left = [8]

    def verdict() -> bool | None:
        left[0] -= 1
        if not left[0]:
            raise Enough
        return next(says)

    cell, driver = cell_of(verdict)
    wrist = DetectorSettings(camera="wrist", crop=(0.0, 0.0, 0.5, 1.0))
    with pytest.raises(Enough):
        record(cell, tmp_path / "carrot", wrist)
    found = {
        label: sorted((tmp_path / "carrot" / label).glob("*.png"))
        for label in ("success", "failure")
    }
    assert [len(paths) for paths in found.values()] == [2, 1] and driver.sent
    assert (np.array(Image.open(found["success"][0])) == 30).all()
    with pytest.raises(UserError, match="other images"):
        record(cell, tmp_path / "carrot", DetectorSettings())


def test_a_classifier_keeps_the_view_of_its_images(tmp_path: Path) -> None:
    images, judge = tmp_path / "images", tmp_path / "judge"
    for folder in (images, judge):
        folder.mkdir()
    keep_view(images, judge)
    check_view(
        judge, DetectorSettings().view
    )  # of the policy's image, where nothing says otherwise
    own = DetectorSettings(camera="front", crop=(0.1, 0.0, 0.5, 0.5)).view
    with pytest.raises(UserError, match="the settings' detector sees"):
        check_view(judge, own)
    write_view(images, own)
    keep_view(images, judge)
    check_view(judge, own)
    with pytest.raises(UserError, match="the settings' detector sees"):
        check_view(judge, DetectorSettings().view)
    (judge / VIEW).write_text("[]")
    with pytest.raises(UserError):
        check_view(judge, own)


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        ({"images": 0}, "detector.images must be from 1"),
        ({"threshold": 1.0}, "detector.threshold must be from -0.99"),
        ({"fingers": "shutt"}, "did you mean 'shut'"),
        ({"camera": "side"}, "unknown camera 'side'"),
        ({"crop": [0, 0, 0.5, 0.5]}, "name it as detector.camera"),
        ({"camera": "front", "crop": [0.5, 0, 0.4, 1]}, "must be .left, top, right, bottom."),
        ({"camera": "front", "crop": [0, 0, 1]}, "must be .left, top, right, bottom."),
        ({"imagse": 3}, "did you mean 'images'"),
    ],
)
def test_what_is_wrong_with_a_detector_is_told(
    tmp_path: Path, detector: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        read_settings(written(tmp_path, detector=detector))


def test_a_detector_as_it_is_written(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path))
    assert settings.detector == DetectorSettings(crop=WHOLE) and settings.veto == 3.0
    written(tmp_path, detector={"camera": "wrist", "crop": [0, 0, 1, 0.5], "fingers": "holding"})
    chosen = read_settings(tmp_path / "arm.yaml").detector
    assert (chosen.camera, chosen.crop[3], chosen.images) == ("wrist", 0.5, 3)
    with pytest.raises(UserError, match="veto must be from 0 to 30"):
        read_settings(written(tmp_path, veto=31.0))
