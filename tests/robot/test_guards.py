"""What is guarded around the core: who must be there, where the fingertips are, what a key means,
and what an arm says that cannot be."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import HASH, LIMITS, MIDDLE, STILL, FakeDriver, arm_of, at
from person import AtTheKeys
from test_real_env import FORTH, FakeCamera, env_of
from test_settings import written

from irevla.config import EnvConfig
from irevla.envs.suite import Authorization
from irevla.errors import UserError
from irevla.robot import cell
from irevla.robot.brake import ArmStopped
from irevla.robot.commands import arm_command, latch_stop
from irevla.robot.pose import Pose, length
from irevla.robot.settings import FILE, Settings, read_settings
from irevla.robot.stop_latch import Session, StopLatch
from irevla.robot.suite import PANDA
from irevla.robot.teleop import LEAVE, STOP

PERIOD = LIMITS.period
EAST = np.array([0.0, 0.04, 0.0])
FLANGE = Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))


class Now:
    """The clock on the wall, for a driver of the tests."""

    @property
    def time(self) -> float:
        return time.monotonic()


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    """What the settings' driver would be: an arm that obeys at once."""
    driver = FakeDriver(Now(), at(0.6, 0.2, 0.1))  # type: ignore[arg-type]
    process = cell._ThisProcess()
    monkeypatch.setattr(cell, "_this_process", process)
    monkeypatch.setattr(cell, "_driver", lambda settings: driver.opened())
    monkeypatch.setattr(cell, "open_camera", lambda name, settings: FakeCamera(0))
    monkeypatch.setenv(FILE, str(written(tmp_path, policy="", dry_run=False)))
    yield driver
    for opened in process.cells.values():
        opened.close()


@pytest.fixture
def settings(driver: FakeDriver, tmp_path: Path) -> Settings:
    return read_settings(tmp_path / "arm.yaml")


# --- a stop is heard in every minute


@contextlib.contextmanager
def pressing_stop(settings: Settings, when: Callable[[], bool]) -> Iterator[None]:
    """A person at the keys, who presses SPACE once."""
    pressed: list[bool] = []

    def says() -> str:
        if pressed or not when():
            return ""
        pressed.append(True)
        return STOP

    with AtTheKeys(settings.path, says):
        yield


def test_space_stops_the_way_home(
    driver: FakeDriver, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda question: "yes")
    with (
        pressing_stop(settings, lambda: len(driver.sent) > 2),
        pytest.raises(ArmStopped, match="a person pressed stop"),
    ):
        arm_command("home", settings.path)
    assert length(driver.pose.position - settings.home.position) > 0.1 and driver.holds
    assert StopLatch(settings.folder).reason == "a person pressed stop"


def test_the_keys_latch_a_stop_that_nobody_hears(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter(["w", STOP, LEAVE])
    keyboard = (lambda seconds: next(typed), lambda: None)
    monkeypatch.setattr("irevla.robot.commands.keyboard", lambda: keyboard)
    arm_command("keys", settings.path)
    assert StopLatch(settings.folder).reason == "a person pressed stop"


def test_space_between_two_sessions_stops_the_next_one(
    driver: FakeDriver, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    latch_stop(settings)  # what the keys do at SPACE, whether or not somebody listens
    monkeypatch.setattr("builtins.input", lambda question: "yes")
    with AtTheKeys(settings.path), pytest.raises(ArmStopped, match="a person pressed stop"):
        arm_command("home", settings.path)
    assert not driver.sent and not driver.gripper
    arm_command("release", settings.path)
    with AtTheKeys(settings.path):
        arm_command("home", settings.path)
    assert length(driver.pose.position - settings.home.position) < 0.01


def test_a_stop_that_comes_while_a_release_is_asked_for_stays(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    latch_stop(settings)

    def hesitate(question: str) -> str:
        latch_stop(settings)
        return "yes"

    monkeypatch.setattr("builtins.input", hesitate)
    with pytest.raises(UserError, match="stopped again meanwhile"):
        arm_command("release", settings.path)
    assert StopLatch(settings.folder).reason


def test_a_stop_that_cannot_be_written_down_is_said_at_the_keys(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: StopLatch) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StopLatch, "keep", full)
    latch_stop(settings)
    assert "PRESS THE EMERGENCY STOP" in capsys.readouterr().out


# --- where the fingertips are


@pytest.mark.parametrize(
    "frame",
    [
        FLANGE,
        Pose(np.array([0.0, 0.0, 0.1034]), FLANGE.quaternion),
        Pose(np.array([0.0, 0.0, 0.2]), np.array([0.0, 0.0, -0.3827, 0.9239])),
        Pose(np.full(3, np.nan), FLANGE.quaternion),
    ],
    ids=["flange", "not turned", "longer fingers", "nan"],
)
def test_another_frame_than_the_settings_name_moves_nothing(frame: Pose) -> None:
    arm, driver, clock = arm_of()
    arm.step(EAST / 8, STILL, shut=False)
    clock.time += PERIOD
    driver.mend = lambda state: replace(state, frame=frame)
    with pytest.raises(ArmStopped, match=r"its end effector is|not sound"):
        arm.step(EAST / 8, STILL, shut=False)
    assert len(driver.sent) == 1 and driver.holds
    arm, driver, _ = arm_of(frame=frame) if np.isfinite(frame.position).all() else arm_of()
    driver.mend = lambda state: replace(state, frame=frame)
    for motion in (lambda: arm.approach(MIDDLE), arm.recover):
        if frame.sound:
            motion()  # the settings name it
        else:
            with pytest.raises(ArmStopped):
                motion()


def test_the_frame_of_another_hand_is_a_setting(tmp_path: Path) -> None:
    path = written(tmp_path, fingertips={"position": [0.0, 0.0, 0.15], "yaw": 0.5})
    fingertips = read_settings(path).fingertips
    assert fingertips.position.tolist() == [0.0, 0.0, 0.15]
    assert fingertips.yaw == pytest.approx(0.5)


# --- a person and images, before and during every motion


@pytest.mark.parametrize("gone", ["person", "front camera", "wrist camera"])
def test_the_way_to_the_start_ends_where_the_person_or_an_image_is_gone(gone: str) -> None:
    env, person, driver, clock = env_of()

    def go() -> None:
        if len(driver.sent) == 5:
            if gone == "person":
                person.watching = False
            camera = env.cell.cameras["front" if gone == "front camera" else "wrist"]
            camera.broken = gone != "person"  # type: ignore[attr-defined]

    clock.asleep = go
    with pytest.raises(UserError, match=r"nobody watches|no image"):
        env.reset()
    assert len(driver.sent) == 5 and driver.holds
    sent = len(driver.sent)
    for motion in (
        lambda: env.cell.arm.step(EAST, STILL, shut=True),
        lambda: env.cell.arm.approach(MIDDLE),
        lambda: env.cell.arm.set_gripper(shut=True),
        env.cell.arm.recover,
    ):
        with pytest.raises(UserError, match=r"nobody watches|no image"):
            motion()
    assert len(driver.sent) == sent and True not in driver.gripper


def test_a_moving_arm_is_held_by_the_watchdog_where_the_person_is_gone() -> None:
    arm, driver, clock = arm_of()
    there = [True]

    def witness() -> None:
        if not there[0]:
            raise UserError("nobody watches the arm")

    arm.require(witness)
    arm.step(EAST, STILL, shut=False)
    there[0] = False
    clock.time += PERIOD / 4
    arm.watch()
    assert driver.holds == driver.fingers_stopped == 1 and not arm.stopped
    there[0] = True
    arm.step(EAST, STILL, shut=False)
    assert driver.gripper == [False, False], "the fingers are told again"


def test_home_needs_the_keys_and_the_cameras(
    driver: FakeDriver, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda question: "yes")
    with pytest.raises(UserError, match="irevla arm keys"):
        arm_command("home", settings.path)
    broken = FakeCamera(0)
    broken.broken = True
    monkeypatch.setattr(cell, "open_camera", lambda name, settings: broken)
    with AtTheKeys(settings.path), pytest.raises(UserError, match="no image"):
        arm_command("home", settings.path)
    assert not driver.sent


# --- an arm that says what cannot be


@pytest.mark.parametrize("jump", [(0.25, 0.0, 0.0), (0.0, 0.0, -0.12)])
def test_a_state_that_jumps_is_not_believed(jump: tuple[float, float, float]) -> None:
    arm, driver, clock = arm_of()
    arm.step(STILL, STILL, shut=False)
    clock.time += PERIOD / 4
    driver.mend = lambda state: replace(
        state, pose=Pose(state.pose.position + np.array(jump), state.pose.quaternion)
    )
    arm.watch()
    assert "its hand jumped" in arm.stopped and driver.holds == 1


def test_a_hand_that_turns_over_is_not_believed() -> None:
    arm, driver, clock = arm_of()
    arm.step(STILL, STILL, shut=False)
    clock.time += PERIOD / 4
    driver.mend = lambda state: replace(
        state, pose=Pose(state.pose.position, np.array([0.0, 0.0, 0.0, 1.0]))
    )
    arm.watch()
    assert "its hand jumped" in arm.stopped


# --- faults


def test_faults_are_counted_over_sessions_until_a_person_comes(tmp_path: Path) -> None:
    for number in range(LIMITS.clears_per_run + 1):
        arm, driver, _ = arm_of(session=Session(tmp_path))
        driver.reason = "cartesian_reflex"
        if number < LIMITS.clears_per_run:
            arm.recover()
        else:
            with pytest.raises(ArmStopped, match="after 3 faults were cleared"):
                arm.recover()
            arm.release()
            arm.recover()
        arm.close()
    assert StopLatch(tmp_path).clears == 1


# --- who may move it, and when


def test_who_was_authorised_is_so_no_more_once_the_environments_are_closed(
    driver: FakeDriver, settings: Settings
) -> None:
    PANDA.authorize(Authorization(HASH))
    config = EnvConfig(image_size=64, workers=1, envs_per_worker=1, timeout=600.0)
    first = PANDA.make("pick-carrot", config).unwrapped
    second = PANDA.make("pick-corn", config).unwrapped
    arm = first.cell.arm  # type: ignore[attr-defined]
    first.close()
    assert arm.who == HASH
    second.close()
    assert not arm.who
    with AtTheKeys(settings.path), pytest.raises(UserError, match="nobody is authorised"):
        arm.step(EAST, STILL, shut=False)
    PANDA.authorize(Authorization(HASH))
    assert arm.who == HASH
    PANDA.authorize(None)  # a worker's next greeting that names nobody
    assert not arm.who and not driver.sent


def test_after_an_episode_nothing_moves_before_a_person_is_out_of_the_way() -> None:
    env, person, driver, _ = env_of()
    env.reset()
    env.step(FORTH)
    person.says = True
    env.step(FORTH)
    sent, gripper = len(driver.sent), list(driver.gripper)
    person.ready = False  # they reach in for what was picked up
    with pytest.raises(UserError, match="hands off"):
        env.reset()
    assert len(driver.sent) == sent and driver.gripper == gripper
    person.ready = True
    person.asked.clear()
    env.reset()
    assert "hands off" in person.asked[0] and "put things in place" in person.asked[1]


@pytest.mark.parametrize(
    "host",
    ["http://127.0.0.1:5000", "http://localhost", "http://LOCALHOST:5000/", "http://127.0.0.1"],
)
def test_all_names_and_files_of_an_arm_share_its_stop(host: str, tmp_path: Path) -> None:
    other = tmp_path / "copy"
    other.mkdir()
    (tmp_path / "link.yaml").symlink_to(written(tmp_path, driver="serl", host=host))
    folders = {
        read_settings(path).folder
        for path in (
            written(tmp_path, driver="serl", host=host),
            tmp_path / "link.yaml",
            written(other, driver="serl", host="http://127.0.0.1:5000"),
        )
    }
    assert len(folders) == 1
    assert read_settings(written(tmp_path, host="127.0.0.1")).folder not in folders
    assert (
        read_settings(written(tmp_path, driver="serl", host="http://127.0.0.1:5001")).folder
        not in folders
    )
