"""The environment of a real arm, on an arm that obeys at once: episodes, people, cameras,
recordings."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import LIMITS, MIDDLE, FakeClock, FakeDriver, arm_of, at

from irevla.config import EnvConfig
from irevla.envs.panda.suite import PANDA_SIM
from irevla.envs.suite import PERSON, TaskEnv
from irevla.errors import UserError
from irevla.robot.brake import ArmStopped
from irevla.robot.cameras import FROZEN, CameraError, Streaming, compose, open_camera
from irevla.robot.cell import Cell
from irevla.robot.console import send_keys
from irevla.robot.env import PandaRealEnv
from irevla.robot.recorder import Recorder, recordings
from irevla.robot.safe_arm import SafeArm
from irevla.robot.settings import CameraSettings
from irevla.robot.success import ClassifierDetector, KeyDetector
from irevla.robot.suite import PANDA
from irevla.robot.teleop import DONE, READY, STOP, TAP, KeyTeleop

CONFIG = EnvConfig(image_size=64, horizon=5, workers=1, envs_per_worker=1, timeout=600.0)
STILL = np.array([0, 0, 0, 0, 0, 0, -1], np.float32)
FORTH = np.array([1, 0, 0, 0, 0, 0, 1], np.float32)


class FakePerson:
    """Says what it is told to say."""

    def __init__(self) -> None:
        self.watching, self.ready, self.vetoes = True, True, False
        self.hand: np.ndarray | None = None
        self.says: bool | None = None
        self.asked: list[str] = []

    def present(self) -> bool:
        return self.watching

    def action(self, *, shut: bool) -> np.ndarray | None:
        return self.hand

    def verdict(self) -> bool | None:
        says, self.says = self.says, None
        return says

    def wait_ready(self, request: str, *, patience: float) -> bool:
        self.asked.append(request)
        return self.ready

    def tell(self, text: str) -> None:
        self.told = text

    def wait_veto(self, request: str, *, patience: float) -> bool:
        self.asked.append(request)
        return self.vetoes

    def close(self) -> None:
        pass


class FakeCamera:
    def __init__(self, colour: int) -> None:
        self.colour, self.broken = colour, False

    def read(self) -> np.ndarray:
        if self.broken:
            raise CameraError("the front camera has given no image for 1.0 s")
        return np.full((48, 64, 3), self.colour, np.uint8)

    def check(self) -> None:
        self.read()

    def close(self) -> None:
        pass


def env_of(
    tmp_path: Path | None = None, *, task: str = "pick-carrot"
) -> tuple[PandaRealEnv, FakePerson, FakeDriver, FakeClock]:
    arm, driver, clock = arm_of(at(0.6, 0.2, 0.1))
    person = FakePerson()
    cameras = {"front": FakeCamera(200), "wrist": FakeCamera(30)}
    cell = Cell(arm, MIDDLE, cameras, person, KeyDetector(person), clock, tmp_path)
    return PandaRealEnv(task, CONFIG, cell=cell), person, driver, clock


# --- tasks that undo each other


def pair_of(tmp_path: Path) -> tuple[PandaRealEnv, PandaRealEnv, FakePerson, FakeDriver]:
    pick, person, driver, _ = env_of(tmp_path, task="pick-red-block")
    pick.cell.partners = {"pick-red-block": "place-block", "place-block": "pick-red-block"}
    place = PandaRealEnv("place-block", CONFIG, cell=pick.cell)
    return pick, place, person, driver


def solve(env: PandaRealEnv, person: FakePerson, action: np.ndarray) -> None:
    person.says = True
    *_, info = env.step(action)
    assert info["success"]


def test_where_one_has_succeeded_the_other_goes_on_from_there(tmp_path: Path) -> None:
    pick, place, person, driver = pair_of(tmp_path)
    pick.reset(seed=0)
    assert len(person.asked) == 2 and driver.gripper == [False]
    solve(pick, person, FORTH)  # the fingers are shut
    place.reset(seed=0)
    assert "the fingers stay" in person.asked[2] and len(person.asked) == 3, "asked once"
    assert driver.gripper == [False, True], "what is held is held"
    assert np.allclose(driver.pose.position, MIDDLE.position, atol=0.007)
    assert place.expert_action()[6] == 1.0, "and stays so until a person asks"
    place.step(place.expert_action())
    solve(place, person, STILL)  # let go
    pick.reset(seed=1)
    assert len(person.asked) == 4 and driver.gripper[-1] is False
    assert pick.expert_action()[6] == -1.0


def test_it_does_not_begin_by_itself(tmp_path: Path) -> None:
    """Who has just seen a success may be reaching in."""
    pick, place, person, driver = pair_of(tmp_path)
    pick.reset(seed=0)
    solve(pick, person, FORTH)
    sent = len(driver.sent)
    person.ready = False
    with pytest.raises(UserError, match="nobody said"):
        place.reset(seed=0)
    assert len(driver.sent) == sent


@pytest.mark.parametrize("why", ["failed", "taken back", "the same again", "another", "no pair"])
def test_else_a_person_is_asked(tmp_path: Path, why: str) -> None:
    pick, place, person, driver = pair_of(tmp_path)
    pick.cell.veto = 3.0
    following = place
    pick.reset(seed=0)
    person.says = why != "failed"
    person.vetoes = why == "taken back"
    pick.step(FORTH)
    if why == "the same again":
        following = pick
    if why == "another":
        following = PandaRealEnv("button-press", CONFIG, cell=pick.cell)
    if why == "no pair":
        pick.cell.partners = {}
    before = len(person.asked)
    following.reset(seed=0)
    assert len(person.asked) == before + 2 and driver.gripper[-1] is False
    assert not any("goes on from there" in asked for asked in person.asked)
    # What was asked for once counts for the episode after that alone.
    assert pick.cell.shows == ""


def test_nothing_goes_on_after_a_dry_run(tmp_path: Path) -> None:
    pick, place, person, _ = pair_of(tmp_path)
    pick.cell.arm.dry_run = True
    pick.reset(seed=0)
    person.says = True
    pick.step(FORTH)
    place.reset(seed=0)
    assert len(person.asked) == 4


# --- an environment like others


def test_an_episode_is_one_like_any_other() -> None:
    env, person, driver, clock = env_of()
    assert isinstance(env, TaskEnv)
    picture, info = env.reset(seed=3)
    assert env.observation_space.contains(picture) and not info["success"]
    assert np.allclose(driver.pose.position, MIDDLE.position, atol=0.007) and driver.gripper == [
        False
    ]
    assert "pick up the carrot" in person.asked[-1]
    began, x = clock.time, driver.pose.position[0]
    picture, reward, terminated, truncated, info = env.step(FORTH)
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, False, False)
    assert driver.pose.position[0] == pytest.approx(x + 0.04) and driver.gripper[-1]
    assert clock.time - began == pytest.approx(LIMITS.period)
    person.says = True
    _, reward, terminated, truncated, info = env.step(STILL)
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


def told(driver: FakeDriver, width: float | None = 0.05) -> None:
    driver.mend = lambda state: replace(state, width=width)


def test_the_policy_is_told_what_panda_sim_tells(tmp_path: Path) -> None:
    env, _, driver, _ = env_of(tmp_path)
    env.config = replace(CONFIG, state=True)
    told(driver)
    driver.pose = at(0.6, 0.2, 0.1)
    _, info = env.reset()
    pose = driver.pose
    rotation = np.array(
        [turned_axis(pose.quaternion, axis) for axis in np.eye(3)[:2]], np.float32
    ).ravel()
    assert info["state"].shape == (len(PANDA_SIM.state),) == (10,)
    np.testing.assert_allclose(info["state"], [*pose.position, *rotation, 0.05], atol=1e-6)
    told(driver, 0.01)
    *_, info = env.step(FORTH)
    np.testing.assert_allclose(info["state"][:3], driver.pose.position, atol=1e-6)
    assert info["state"][-1] == np.float32(0.01)
    told(driver, None)
    with pytest.raises(UserError, match="does not say how far its fingers are open"):
        env.reset()


def turned_axis(quaternion: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """The axis as the hand has it, by the definition: q v q*."""
    turn = quaternion[:3]
    return axis + 2 * np.cross(turn, np.cross(turn, axis) + quaternion[3] * axis)


def test_it_shows_the_cameras_that_are_asked_for() -> None:
    env, *_ = env_of()
    env.config = replace(CONFIG, cameras=("wrist", "front"))
    image, _ = env.reset()
    size = CONFIG.image_size
    assert image.shape == (2 * size, size, 3)
    assert (image[:size] == 30).all() and (image[size:] == 200).all()
    env.cell.cameras["front"].broken = True  # type: ignore[attr-defined]
    with pytest.raises(CameraError):
        env.step(STILL)
    assert env.cell.arm.stopped


def test_it_shows_a_third_camera_and_stops_where_that_is_gone(tmp_path: Path) -> None:
    env, person, driver, _ = env_of(tmp_path)
    side = FakeCamera(90)
    env.cell.cameras = {**env.cell.cameras, "side": side}
    three = replace(CONFIG, cameras=("front", "wrist", "side"))
    env.config = three
    env._recorder = Recorder(env.task, tmp_path, cameras=three.cameras)
    image, _ = env.reset()
    size = CONFIG.image_size
    assert image.shape == (3 * size, size, 3) and (image[2 * size :] == 90).all()
    person.hand, person.says = FORTH, True
    env.step(STILL)
    (shown,) = recordings(tmp_path, [env.task.name], three)
    assert (shown.images[0, 2 * size :] == 90).all()
    env.config = replace(CONFIG, cameras=("front",))
    env.reset()
    side.broken = True
    sent = len(driver.sent)
    with pytest.raises(CameraError):
        env.step(STILL)
    assert len(driver.sent) == sent and env.cell.arm.stopped, "seen by the policy or not"


def test_what_a_person_shows_is_kept_with_its_cameras_and_state(tmp_path: Path) -> None:
    env, person, driver, _ = env_of(tmp_path)
    both = replace(CONFIG, cameras=("front", "wrist"), state=True)
    env.config = both
    env._recorder = Recorder(env.task, tmp_path, cameras=both.cameras)
    told(driver)
    env.cell.arm.authorize(PERSON)
    env.reset()
    person.hand = FORTH
    env.step(env.expert_action())
    env._recorder._helped = True
    person.says = True
    env.step(env.expert_action())
    (shown,) = PANDA.demonstrations(tmp_path, [env.task.name], both, 5)  # type: ignore[misc]
    assert shown.images.shape == (2, *both.image_shape) and shown.state.shape == (2, 10)
    assert shown.state[1, 0] > shown.state[0, 0]
    (untold,) = recordings(tmp_path, [env.task.name], replace(both, state=False))
    assert untold.state.shape == (2, 0)
    for asked, message in (
        (replace(both, cameras=("front",)), "shows front wrist: --env.cameras front wrist"),
        (replace(both, cameras=()), "shows front wrist: --env.cameras front wrist"),
        (replace(both, image_size=16), "--env.image-size 64"),
    ):
        with pytest.raises(UserError, match=message):
            list(recordings(tmp_path, [env.task.name], asked))


def test_an_older_recording_has_both_cameras_in_one_image_and_no_state(tmp_path: Path) -> None:
    shape = (3, CONFIG.image_size, CONFIG.image_size, 3)
    arrays = {"pictures": np.zeros(shape, np.uint8), "actions": np.zeros((3, 7))}
    np.savez(tmp_path / "a.npz", task="pick-carrot", **arrays)
    (old,) = recordings(tmp_path, ["pick-carrot"], CONFIG)
    assert old.images.shape == shape
    with pytest.raises(UserError, match="both cameras in one image: leave --env"):
        list(recordings(tmp_path, ["pick-carrot"], replace(CONFIG, cameras=("front",))))
    with pytest.raises(UserError, match="what the robot's state was: --env"):
        list(recordings(tmp_path, ["pick-carrot"], replace(CONFIG, state=True)))


def test_it_ends_at_the_horizon_or_where_it_has_failed() -> None:
    env, person, _, _ = env_of()
    env.reset()
    ends = [env.step(STILL)[2:4] for _ in range(CONFIG.horizon)]
    assert ends == [(False, False)] * 4 + [(False, True)]
    env.reset()
    person.says = False  # a thing fell off the table: no value beyond
    assert env.step(STILL)[2:4] == (True, False)


def test_a_dry_run_says_where_it_would_go_and_keeps_no_episode() -> None:
    env, person, driver, clock = env_of()
    said: list[str] = []
    env.cell.arm = SafeArm(driver, LIMITS, clock=clock, dry_run=True, announce=said.append)
    env.cell.arm.require(lambda: None)
    env.cell.arm.authorize(PERSON)
    env.reset()
    env.step(env.expert_action())
    person.says = True
    _, reward, terminated, _, info = env.step(env.expert_action())
    assert (reward, terminated, info["success"]) == (0.0, True, False) and not driver.sent
    assert any("would go to [0." in text for text in said)


def test_a_policy_that_thinks_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    env, _, _, clock = env_of()
    said: list[str] = []
    monkeypatch.setattr(env.cell.arm, "_announce", said.append)
    env.reset()
    for number in range(CONFIG.horizon):
        if number in (2, 3):
            for _ in range(8):  # the watchdog looks meanwhile
                clock.time += 0.025
                env.cell.arm.watch()
        env.step(STILL)
    assert "2 of 5 decisions took more than 120 ms, the slowest 200" in said[-1]
    assert "the arm held 2 times" in said[-1]


def test_after_a_long_silence_a_person_is_asked_before_the_arm_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where a server that encodes was away: somebody may have come near."""
    env, _, driver, clock = env_of()
    said: list[str] = []
    monkeypatch.setattr(env.cell.arm, "_announce", said.append)
    ahead = np.array([1, 0, 0, 0, 0, 0, -1], np.float32)
    env.reset()
    env.step(ahead)
    clock.time += 9.5
    assert not env.step(ahead)[3]
    where = driver.pose.position.copy()
    clock.time += 11
    _, reward, terminated, truncated, info = env.step(ahead)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["fault"] == "no decision came for 11 s"
    assert any(
        text.startswith("no decision came for 11 s, so this episode is over") for text in said
    )
    assert (driver.pose.position == where).all()


def test_a_thinking_policy_keeps_ten_decisions_a_second() -> None:
    env, _, _, clock = env_of()
    env.reset()
    env.step(STILL)
    began = clock.time
    for _ in range(3):
        clock.time += 0.03  # it thinks
        env.step(STILL)
    assert clock.time - began == pytest.approx(3 * LIMITS.period)


def test_both_views_are_one_picture_as_in_simulation() -> None:
    env, _, _, _ = env_of()
    picture, _ = env.reset()
    assert (
        (picture[:24, :24] == 30).all()
        and (picture[24:] == 200).all()
        and (picture[:, 24:] == 200).all()
    )
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = 255  # the middle square
    assert (compose(wide, wide, size=32) == 255).all()


# --- safety, from here


def test_the_start_is_reached_upwards_first() -> None:
    env, _, driver, _ = env_of()
    env.reset()
    way = np.array([pose.position for pose in driver.sent])
    rising = way[:, 2] < MIDDLE.position[2] - 0.01
    assert np.abs(way[rising][:, :2] - [0.6, 0.2]).max() < 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_moves_the_arm(bad: float) -> None:
    env, _, driver, _ = env_of()
    env.reset()
    before = len(driver.sent)
    action = STILL.copy()
    action[1] = bad
    if np.isinf(bad):  # clipped, as any action is
        env.step(action)
        assert np.isfinite(driver.pose.position).all()
        return
    with pytest.raises(ArmStopped, match="not finite"):
        env.step(action)
    assert len(driver.sent) == before


def test_without_authorisation_not_even_the_start_is_approached() -> None:
    env, _, driver, clock = env_of()
    env.cell.arm = SafeArm(driver, LIMITS, clock=clock)
    with pytest.raises(UserError, match="nobody is authorised"):
        env.reset()
    assert not driver.sent and not driver.gripper


def test_without_a_person_nothing_moves() -> None:
    env, person, driver, _ = env_of()
    person.watching = False
    with pytest.raises(UserError, match="irevla arm keys"):
        env.reset()
    assert not driver.sent
    person.watching = True
    env.reset()
    before, person.watching = len(driver.sent), False
    with pytest.raises(UserError, match="nobody watches"):
        env.step(FORTH)
    assert len(driver.sent) == before and driver.holds
    person.watching, person.ready = True, False
    with pytest.raises(UserError, match="nobody said within 240 s"):
        env.reset()


def test_a_collision_ends_the_episode_and_is_cleared_at_the_next_but_not_for_ever() -> None:
    env, _, driver, _ = env_of()
    env.reset()
    for _ in range(LIMITS.clears_per_run):
        driver.reason = "cartesian_reflex"
        _, _, terminated, truncated, info = env.step(FORTH)
        assert (terminated, truncated, info["fault"]) == (False, True, "cartesian_reflex")
        env.reset()
    driver.reason = "cartesian_reflex"
    env.step(FORTH)
    with pytest.raises(ArmStopped, match="enough without a person"):
        env.reset()
    assert driver.cleared == LIMITS.clears_per_run


def test_a_camera_that_fails_stops_the_arm() -> None:
    env, _, _, _ = env_of()
    env.reset()
    env.cell.cameras["front"].broken = True  # type: ignore[attr-defined]
    with pytest.raises(CameraError):
        env.step(FORTH)
    assert "no image" in env.cell.arm.stopped


def test_two_environments_cannot_play_at_once() -> None:
    env, _, _, _ = env_of()
    other = PandaRealEnv("pick-eggplant", CONFIG, cell=env.cell)
    env.reset()
    with pytest.raises(UserError, match="there is one arm"):
        other.reset()
    env.close()
    other.reset()


# --- people


def test_who_takes_over_is_recorded_and_can_be_imported(tmp_path: Path) -> None:
    folder = tmp_path / "shown"
    env, person, driver, _ = env_of(folder)
    for successful in (False, True):
        env.reset()
        env.step(STILL)
        person.hand = FORTH
        x = driver.pose.position[0]
        *_, info = env.step(STILL)
        assert info["person"] and np.array_equal(info["action"], FORTH)
        assert driver.pose.position[0] == pytest.approx(x + 0.04)
        person.hand, person.says = None, successful
        env.step(STILL)
    env.reset()
    person.says = True  # without the person's help: not a demonstration
    env.step(STILL)
    demonstrations = PANDA.demonstrations
    assert demonstrations is not None
    (episode,) = demonstrations(folder, ["pick-carrot"], CONFIG, 5)
    dwelling = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)  # the fingers have just closed
    assert np.array_equal(episode.actions, [STILL, FORTH, dwelling]) and episode.success
    assert episode.images.shape == (3, 64, 64, 3) and episode.instruction == "pick up the carrot"
    with pytest.raises(UserError, match="shows no pick-corn"):
        next(demonstrations(folder, ["pick-corn"], CONFIG, 5))


def test_who_is_authorised_as_a_person_is_no_policy() -> None:
    env, person, driver, _ = env_of()
    env.cell.arm.authorize(PERSON)
    env.reset()
    before = len(driver.sent)
    with pytest.raises(UserError, match="this is a policy"):
        env.step(FORTH)
    assert len(driver.sent) == before
    env.step(env.expert_action())  # nothing pressed: it stands still
    person.hand = FORTH
    env.step(STILL)
    assert len(driver.sent) == before + 2


def test_a_person_is_the_expert(tmp_path: Path) -> None:
    env, person, driver, _ = env_of(tmp_path / "shown")
    env.reset()
    assert np.array_equal(env.expert_action(), STILL)
    person.hand, x = FORTH, driver.pose.position[0]
    action = env.expert_action()
    assert np.array_equal(action, FORTH)
    env.step(action)
    assert driver.pose.position[0] == pytest.approx(x + 0.04)
    person.hand = None
    assert env.expert_action()[6] == 1.0  # the fingers stay shut
    person.says = True
    env.step(env.expert_action())
    assert not (tmp_path / "shown").exists()  # collected elsewhere


def soon(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def send(path: Path, *keys: str, on_stop: Callable[[], None] = lambda: None) -> None:
    """Type `keys`, and leave."""
    typed = iter([*keys, "\x03"])
    send_keys(path, lambda seconds: next(typed), on_stop=on_stop)


def test_keys_in_another_terminal_reach_the_arm(tmp_path: Path) -> None:
    stops: list[str] = []
    keys = KeyTeleop(tmp_path / "arm.keys", stops.append)
    assert not keys.present() and keys.action(shut=False) is None
    latched: list[str] = []
    send(tmp_path / "arm.keys", "", "w", "g", DONE, STOP, on_stop=lambda: latched.append(STOP))
    assert soon(lambda: bool(stops)) and keys.present() and latched == [STOP]
    action = keys.action(shut=False)
    assert action is not None and action[0] == TAP and action[6] == 1.0
    assert keys.verdict() is True and keys.verdict() is None
    sender = threading.Timer(0.05, send, (tmp_path / "arm.keys", READY))
    sender.start()
    assert keys.wait_ready("put it back", patience=5.0)
    sender.join()
    assert not keys.wait_ready("put it back", patience=0.01)
    keys.close()
    assert not (tmp_path / "arm.keys").exists()
    send(tmp_path / "arm.keys", READY, STOP, on_stop=lambda: latched.append(STOP))
    assert latched == [STOP, STOP], "nobody listens: the keys latch the stop themselves"


def test_a_session_that_hangs_keeps_no_stop_waiting(tmp_path: Path) -> None:
    """Nobody reads its socket, and what the kernel queues for it is bounded."""
    latched: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hung:
        hung.bind(str(tmp_path / "arm.keys"))
        keys = ["w"] * 2000
        send(tmp_path / "arm.keys", *keys, STOP, on_stop=lambda: latched.append(STOP))
    assert latched == [STOP]


# --- cameras and success detectors


def test_a_camera_gives_its_newest_picture_and_no_old_one() -> None:
    taken, stuck = [0], threading.Event()

    def grab() -> np.ndarray | None:
        time.sleep(0.005)
        if stuck.is_set():
            return None
        taken[0] += 1
        return np.full((4, 4, 3), min(taken[0], 255), np.uint8)

    camera = Streaming("front", grab, lambda: None)
    assert camera.read().shape == (4, 4, 3)
    stuck.set()
    time.sleep(0.35)
    with pytest.raises(CameraError, match="no image for"):
        camera.read()
    stuck.clear()
    before = taken[0]
    assert soon(lambda: taken[0] > before + 3)
    camera.close()


def test_a_frozen_picture_is_none_of_the_present() -> None:
    number = [0]
    frozen = threading.Event()

    def grab() -> np.ndarray:
        time.sleep(0.005)
        number[0] += not frozen.is_set()
        return np.full((4, 4, 3), number[0] % 256, np.uint8)

    camera = Streaming("front", grab, lambda: None)
    camera.check()
    frozen.set()
    time.sleep(FROZEN + 0.2)
    for look in (camera.check, camera.read):
        with pytest.raises(CameraError, match="it is frozen"):
            look()
    camera.close()


def test_cameras_that_are_not_there_are_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pip install pyrealsense2"):
        open_camera("wrist", CameraSettings("realsense", ""))
    pytest.importorskip("cv2")
    with pytest.raises(UserError, match="cannot be opened"):
        open_camera("front", CameraSettings("opencv", str(tmp_path / "none.avi")))


def test_opencv_reads_a_film(tmp_path: Path) -> None:
    """A file in the place of a device: the same code from `VideoCapture` on."""
    cv2 = pytest.importorskip("cv2")
    film = str(tmp_path / "film.avi")
    writer = cv2.VideoWriter(film, cv2.VideoWriter_fourcc(*"MJPG"), 30, (64, 48))
    for _ in range(30):
        writer.write(np.full((48, 64, 3), (20, 60, 220), np.uint8))  # BGR: red
    writer.release()
    camera = open_camera("front", CameraSettings("opencv", film))
    red, green, blue = camera.read()[24, 32].tolist()
    assert red > 180 and green < 100 and blue < 60
    camera.close()


def test_a_person_goes_before_the_classifier() -> None:
    def bright(picture: np.ndarray, instruction: str) -> bool:
        return instruction == "pick up the carrot" and picture.mean() > 100

    person = FakePerson()
    detector = ClassifierDetector(bright, person)
    dark, light = (np.full((64, 64, 3), value, np.uint8) for value in (20, 200))
    assert detector.detect(light, "pick up the carrot") is True
    assert (
        detector.detect(dark, "pick up the carrot") is None
        and detector.detect(light, "place it") is None
    )
    person.says = False
    assert detector.detect(light, "pick up the carrot") is False


def test_nothing_of_the_arm_is_loaded_for_a_list_of_tasks() -> None:
    heavy = {"franky", "cv2", "torch", "mujoco"}
    code = f"import sys, irevla.robot.suite; print({heavy} & set(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert out.stdout.strip() == "set()"
