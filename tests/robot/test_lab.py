"""What a lab needs of the hand, the arm's own settings, cameras and starts."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import LIMITS, MIDDLE, arm_of, at
from test_real_env import FORTH, STILL, FakeCamera, env_of
from test_settings import written

from irevla.envs.suite import PERSON
from irevla.errors import UserError
from irevla.robot.brake import ArmStopped
from irevla.robot.cameras import AGAIN, FROZEN, CameraError, Streaming, open_camera
from irevla.robot.driver import DriverError
from irevla.robot.drivers.franka import _Fingers
from irevla.robot.drivers.serl import parameters
from irevla.robot.home import Home
from irevla.robot.pose import turn_between
from irevla.robot.settings import CameraSettings, Collision, Compliance, read_settings

SHUT = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)


# --- the fingers


def test_fingers_dwell_on_what_a_policy_told_them_and_labels_say_so() -> None:
    env, _, driver, _ = env_of()
    env.reset()
    driver.gripper.clear()
    env.cell.clock.sleep(1.0)
    wishes = [SHUT, STILL, SHUT, STILL, STILL]
    labels = [env.step(wish)[-1]["action"][6] for wish in wishes]
    assert driver.gripper == [True] and labels == [1.0] * 5
    env.reset()
    assert driver.gripper[-1] is False, "not where the arm goes home"


def test_a_person_need_not_wait_for_the_dwell() -> None:
    env, person, driver, _ = env_of()
    env.reset()
    env.cell.clock.sleep(1.0)
    driver.gripper.clear()
    env.step(SHUT)
    person.hand = STILL
    *_, info = env.step(SHUT)
    assert driver.gripper == [True, False] and info["action"][6] == -1.0


def test_turning_the_fingers_round_costs_the_policy_a_little() -> None:
    env, person, _, _ = env_of()
    env.cell.gripper_cost = 0.02
    env.reset()
    env.cell.clock.sleep(1.0)
    assert [env.step(SHUT)[1] for _ in range(2)] == [-0.02, 0.0]
    env.cell.clock.sleep(1.0)
    person.hand = STILL
    assert env.step(SHUT)[1] == 0.0, "not what a person does"
    env.cell.clock.sleep(1.0)
    person.hand, person.says = None, True
    _, reward, *_, info = env.step(SHUT)
    assert reward == pytest.approx(0.98) and info["success"]


def test_fingers_find_their_ends_once_a_session_after_a_person_has_agreed() -> None:
    env, person, driver, clock = env_of()
    env.cell.homing = True
    driver.busy_until = clock.time + 3.0
    person.ready = False
    with pytest.raises(UserError, match="the fingers close and open"):
        env.reset()
    assert driver.homed == 0
    person.ready = True
    env.cell.player = None
    env.reset()
    env.reset()
    assert driver.homed == 1 and clock.time > driver.busy_until
    assert driver.gripper[-1] is False


def test_a_stop_ends_fingers_that_find_their_ends() -> None:
    arm, driver, clock = arm_of()
    driver.busy_until = clock.time + 5.0
    clock.asleep = lambda: arm.stop("a person pressed stop")
    with pytest.raises(ArmStopped, match="pressed stop"):
        arm.home_gripper()
    assert driver.fingers_stopped
    arm.release()
    clock.asleep = lambda: None
    driver.busy_until = clock.time + 1000.0
    with pytest.raises(ArmStopped, match="found no ends"):
        arm.home_gripper()
    arm.release()

    def fail() -> bool:
        raise DriverError("the gripper failed: nothing there")

    driver.fingers_busy = fail  # type: ignore[method-assign]
    with pytest.raises(ArmStopped, match="found no ends: the gripper failed"):
        arm.home_gripper()


class FakeGripper:
    """A hand that closes for ever, until it is stopped."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(width=0.05)
        self.stops = 0
        self.rests = threading.Event()

    def grasp(self, *how: float) -> None:
        self.rests.wait(5.0)

    def stop(self) -> None:
        self.stops += 1
        self.rests.set()


def test_fingers_are_stopped_though_the_session_ends_meanwhile() -> None:
    """SPACE is heard by one thread while another one hangs up."""
    gripper = FakeGripper()
    fingers = _Fingers(gripper, 20.0, errors=(RuntimeError,))
    fingers.want("shut")

    class HangsUp:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *error: object) -> None:
            fingers._lock = threading.Lock()
            fingers.close()

    fingers._lock = HangsUp()  # type: ignore[assignment]
    fingers.stop()
    assert gripper.stops


# --- where episodes start


def test_starts_are_drawn_around_the_tasks_own_home() -> None:
    env, _, driver, _ = env_of()
    env.cell.homes = {
        "pick-carrot": Home(at(0.45, 0.1, 0.3).position, MIDDLE.quaternion, 0.05, 0.4)
    }
    starts = []
    for seed in (1, 2, 1):
        env.reset(seed=seed)
        starts.append(driver.pose)
    assert np.abs(starts[0].position - [0.45, 0.1, 0.3]).max() < 0.057
    apart = np.linalg.norm(starts[0].position - starts[1].position)
    assert apart > 0.01 and np.allclose(starts[0].position, starts[2].position, atol=0.006)
    assert abs(turn_between(MIDDLE.quaternion, starts[0].quaternion)[2]) < 0.47


def test_no_start_is_outside_the_workspace() -> None:
    edge = Home(np.array([0.3, -0.3, 0.02]), MIDDLE.quaternion, 0.2, 0.0)
    random = np.random.default_rng(0)
    for _ in range(200):
        assert LIMITS.outside(edge.start(random, LIMITS).position) == 0.0


# --- the arm's own settings


def test_serl_is_told_how_soft_to_be() -> None:
    soft = parameters(Compliance(stiffness=500.0, clip=0.005))
    assert soft["translational_stiffness"] == 500.0
    assert soft["translational_damping"] == pytest.approx(44.5)
    assert soft["translational_clip_neg_z"] == 0.005 and len(soft) == 18


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"collision": {"force": 100.0}}, "collision.force must be from 5 to 60 N"),
        ({"collision": {"troque": 10.0}}, "did you mean 'torque'"),
        ({"driver": "serl", "collision": {}}, "collision is for the driver 'franka'"),
        ({"compliance": {"stiffness": 10}}, "compliance.stiffness must be from 100"),
        ({"compliance": 3}, "compliance must be settings with names"),
        ({"compliance": {"motion": "spring"}}, "unknown motion 'spring'"),
        ({"compliance": {"clip": 0.005}}, "compliance.clip needs motion: impedance"),
        ({"compliance": {"motion": "impedance", "clip": 0.1}}, "compliance.clip must be from"),
        (
            {"driver": "serl", "compliance": {"motion": "impedance"}},
            "compliance.motion is for the driver 'franka'",
        ),
        ({"homes": {"pick-carot": {}}}, "did you mean 'pick-carrot'"),
        ({"undoes": {"place-blok": "pick-red-block"}}, "did you mean 'place-block'"),
        ({"undoes": {"place-block": "place-block"}}, "in one pair, with another task"),
        (
            {"undoes": {"place-block": "pick-red-block", "button-press": "place-block"}},
            "place-block must be in one pair",
        ),
        ({"undoes": {"place-block": 3}}, "task of undoes"),
        ({"homes": {"pick-carrot": {"position": [2, 0, 0.3]}}}, "outside the workspace"),
        ({"home": {"position": [0.5, 0, 0.3], "spread": 1}}, "home.spread must be from 0"),
        ({"home": {"position": [0.5, 0, 0.3], "spred": 1}}, "did you mean 'spread'"),
        ({"gripper_cost": 1.0}, "gripper_cost must be from 0 to 0.2"),
        ({"limits": {"dwell": 6.0}}, "limits.dwell must be above 0, and 5.0 at most"),
    ],
)
def test_what_is_wrong_with_them_is_told(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        read_settings(written(tmp_path, **changes))


def test_a_spring_pulls_with_20_n_where_nothing_is_said(tmp_path: Path) -> None:
    soft = read_settings(written(tmp_path, compliance={"motion": "impedance"})).compliance
    assert soft is not None and soft.stiffness * soft.clip == pytest.approx(20.0)
    assert read_settings(written(tmp_path, compliance={})).compliance == Compliance()


def test_they_are_careful_where_nothing_is_said(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path))
    assert settings.collision == Collision(20.0, 30.0) and settings.compliance is None
    assert settings.homing and settings.home.spread == 0.0 and not settings.homes
    both = {"place-block": "pick-red-block", "pick-red-block": "place-block"}
    paired = read_settings(written(tmp_path, undoes={"place-block": "pick-red-block"}))
    assert paired.partners == both and not settings.partners
    written(tmp_path, homes={"pick-carrot": {"position": [0.4, 0, 0.2], "spread": 0.03}})
    settings = read_settings(tmp_path / "arm.yaml")
    assert settings.homes["pick-carrot"].spread == 0.03


# --- cameras


def ticking(number: list[int]) -> np.ndarray:
    time.sleep(0.005)
    number[0] += 1
    return np.full((4, 8, 3), number[0] % 256, np.uint8)


def test_a_camera_shows_the_part_that_is_used() -> None:
    number = [0]

    def grab() -> np.ndarray:
        image = ticking(number)
        image[:, 4:] = 200 + number[0] % 2
        image[:, :4] = 0
        return image

    camera = Streaming("front", grab, lambda: None, crop=(0.5, 0.0, 1.0, 1.0))
    image = camera._newest
    assert image is not None and image[1].shape == (4, 4, 3) and image[1].min() >= 200
    camera.close()


@pytest.mark.parametrize("kind", ["frozen", "silent"])
def test_a_camera_that_froze_is_opened_again(kind: str) -> None:
    number, opened, let_go = [0], [0], [0]
    stuck = threading.Event()

    def release() -> None:
        let_go[0] += 1

    def device() -> tuple[object, object]:
        mine = opened[0]
        opened[0] += 1
        if mine == 1:
            raise UserError("no such camera")  # it is gone for a moment

        def grab() -> np.ndarray | None:
            if mine == 0 and stuck.is_set():
                time.sleep(0.005)
                return np.zeros((4, 8, 3), np.uint8) if kind == "frozen" else None
            return ticking(number)

        return grab, release

    grab, let = device()
    camera = Streaming("front", grab, let, reopen=device)  # type: ignore[arg-type]
    camera.check()
    stuck.set()
    time.sleep(FROZEN + 0.3)
    with pytest.raises(CameraError):
        camera.check()
    end = time.monotonic() + 3 * AGAIN
    while opened[0] < 3 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)
    camera.check()
    assert let_go == [1], "let go before it is opened again"
    camera.close()


def test_an_arm_that_stands_waits_for_its_cameras() -> None:
    env, _, _, clock = env_of()
    camera = env.cell.cameras["front"]
    assert isinstance(camera, FakeCamera)
    camera.broken = True
    ends = clock.time + 2.0
    clock.asleep = lambda: setattr(camera, "broken", clock.time < ends)
    env.reset()
    assert not env.cell.arm.stopped
    clock.asleep = lambda: None
    camera.broken = True
    with pytest.raises(CameraError):
        env.step(FORTH)
    assert env.cell.arm.stopped, "one that moves does not wait"


def test_who_waited_for_a_camera_is_asked_again() -> None:
    """They pressed r, nothing moved, and they reached in again."""
    env, person, driver, clock = env_of()
    camera = env.cell.cameras["front"]
    assert isinstance(camera, FakeCamera)
    sent_at_asking: list[int] = []
    ask = person.wait_ready

    def asked(request: str, *, patience: float) -> bool:
        sent_at_asking.append(len(driver.sent))
        if len(person.asked) == 1:  # it freezes while things are put in place
            camera.broken = True
            ends = clock.time + 2.0
            clock.asleep = lambda: setattr(camera, "broken", clock.time < ends)
        return ask(request, patience=patience)

    person.wait_ready = asked  # type: ignore[method-assign]
    env.reset()
    assert len(person.asked) == 3 and person.asked[1] == person.asked[2]
    assert sent_at_asking[1] == sent_at_asking[2] == len(driver.sent) and not env.cell.arm.stopped


def test_an_exposure_that_a_camera_does_not_take_is_told(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    film = str(tmp_path / "film.avi")
    writer = cv2.VideoWriter(film, cv2.VideoWriter_fourcc(*"MJPG"), 30, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    with pytest.raises(UserError, match="takes no exposure 100") as told:
        open_camera("front", CameraSettings("opencv", film, exposure=100.0))
    assert "\n" not in str(told.value)


def test_who_demonstrates_has_no_dwell() -> None:
    env, person, driver, _ = env_of()
    env.cell.arm.authorize(PERSON)
    env.reset()
    driver.gripper.clear()
    for shut in (True, False):
        person.hand = replace_gripper(shut)
        env.step(env.expert_action())
    assert driver.gripper == [True, False]


def replace_gripper(shut: bool) -> np.ndarray:
    hand = FORTH.copy()
    hand[6] = 1.0 if shut else -1.0
    return hand
