"""The same code that moves a real arm, against a simulated one that speaks libfranka's protocol:
reached places, the box, the gripper, pictures, and an arm that hangs or is gone."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("franky")
pytest.importorskip("franky_sim")

from fakes import HASH
from loopback import Seen, SimulatedArm  # after the packages that it needs
from test_real_env import FORTH, STILL, FakePerson

from irevla.config import EnvConfig
from irevla.envs.panda.tasks import CAMERA_POS, LOOK_AT
from irevla.errors import UserError
from irevla.robot.brake import ArmStopped
from irevla.robot.cell import Cell, open_arm
from irevla.robot.driver import FRANKA_HAND
from irevla.robot.env import PandaRealEnv
from irevla.robot.flight import flights, read_flight
from irevla.robot.kinematics import flange_pose
from irevla.robot.pose import Pose, compose, length, turn_between
from irevla.robot.safe_arm import SafeArm
from irevla.robot.settings import Collision, Compliance, Settings, read_settings
from irevla.robot.stop_latch import StopLatch
from irevla.robot.success import KeyDetector

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
CONFIG = EnvConfig(image_size=64, horizon=1000, workers=1, envs_per_worker=1, timeout=600.0)
SLACK = 0.15  # s that a busy machine may take on top


def settings_for(host: str, folder: Path) -> Settings:
    path = folder / "arm.yaml"
    camera = {"kind": "opencv", "device": 0}
    found = {
        "driver": "franka",
        "host": host,
        "dry_run": False,
        "realtime": False,
        "dynamics": 0.2,
        "workspace": {"low": [0.35, -0.25, 0.05], "high": [0.65, 0.25, 0.5]},
        "home": {"position": [0.45, 0.0, 0.3]},
        "cameras": {"front": camera, "wrist": camera},
        "limits": {"max_age": 0.5},  # a busy machine stalls us and the simulator
    }
    path.write_text(yaml.safe_dump(found))
    return read_settings(path)


@pytest.fixture
def sim() -> Iterator[SimulatedArm]:
    """A new one for each test: franky-sim 1.0.4 loses its second client after a while."""
    with SimulatedArm() as arm:
        yield arm


@pytest.fixture
def arm(sim: SimulatedArm, tmp_path: Path) -> Iterator[SafeArm]:
    arm = open_arm(settings_for(sim.host, tmp_path))
    arm.require(lambda: None)
    arm.authorize(HASH)
    yield arm
    arm.close()


def env_on(sim: SimulatedArm, arm: SafeArm, folder: Path) -> PandaRealEnv:
    person, front = FakePerson(), Seen(sim, CAMERA_POS, LOOK_AT)
    cameras = {"front": front, "wrist": front}
    # To make a renderer may keep the thread that reads the arm from doing so for a second.
    wait_until(lambda: time.monotonic() - arm.look().received < 0.1)
    home = settings_for(sim.host, folder).home
    return PandaRealEnv(
        "pick-red-block", CONFIG, cell=Cell(arm, home, cameras, person, KeyDetector(person))
    )


@pytest.fixture
def env(sim: SimulatedArm, arm: SafeArm, tmp_path: Path) -> PandaRealEnv:
    return env_on(sim, arm, tmp_path)


def reach(env: PandaRealEnv, place: np.ndarray, *, shut: bool = False, patience: int = 150) -> int:
    """A scripted policy: a third of the way to a place, until it is seen there three times in a
    row. How many decisions it took."""
    near = 0
    for decision in range(patience):
        way = place - env.cell.arm.state().pose.position
        near = near + 1 if length(way) < 0.006 else 0
        if near == 3:
            return decision
        action = np.zeros(7, np.float32)
        action[:3], action[6] = way / 0.12, 1.0 if shut else -1.0
        env.step(action)
    raise AssertionError(f"not there after {patience} decisions")


def rest(sim: SimulatedArm) -> np.ndarray:
    """Where the simulator's hand comes to rest, m: on a busy machine it is well behind what it
    reports."""
    end, last = time.monotonic() + 10, sim.hand()
    while time.monotonic() < end:
        time.sleep(0.2)
        now = sim.hand()
        if length(now - last) < 2e-4:
            break
        last = now
    return now


class Still:
    """A camera that does not look at the simulator."""

    def read(self) -> np.ndarray:
        return np.zeros((64, 64, 3), np.uint8)

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


STARVED = ("UDP receive", "s old")  # what a machine without time for the simulator looks like


def test_an_episode_reaches_where_it_was_sent_and_its_pictures_show_it(tmp_path: Path) -> None:
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        with SimulatedArm() as sim:
            arm = open_arm(settings_for(sim.host, folder))
            arm.authorize(HASH)
            try:
                play_an_episode(env_on(sim, arm, folder), sim)
                return
            except ArmStopped as stopped:
                assert any(words in str(stopped) for words in STARVED), stopped
            finally:
                arm.close()
    pytest.fail("this machine had no time for the simulator in four attempts")


def play_an_episode(env: PandaRealEnv, sim: SimulatedArm) -> None:
    first, _ = env.reset()
    assert length(rest(sim) - env.cell.home.position) < 0.01
    place, began = np.array([0.53, 0.08, 0.22]), time.monotonic()
    decisions = reach(env, place, shut=True)
    assert 0.09 * decisions < time.monotonic() - began < (0.11 + SLACK) * decisions
    assert length(rest(sim) - place) < 0.01 and sim.fingers() < 0.01  # the simulator's own account
    last = env.render()
    assert last.shape == (64, 64, 3) and len(np.unique(last.reshape(-1, 3), axis=0)) > 50
    assert np.abs(last.astype(int) - first)[24:].max() > 60
    turn, end = np.zeros(3), time.monotonic() + 40
    while turn[2] < 0.3 and time.monotonic() < end:
        env.step(np.array([0, 0, 0, 0, 0, 1, 1], np.float32))
        turn = turn_between(env.cell.home.quaternion, env.cell.arm.state().pose.quaternion)
    assert 0.3 < turn[2] < 0.7 and length(turn[:2]) < 0.05
    env.step(STILL)
    rest(sim)
    end = time.monotonic() + 10
    while sim.fingers() < 0.07 and time.monotonic() < end:
        time.sleep(0.1)
    assert sim.fingers() > 0.07


def test_labels_are_the_way_that_the_simulated_hand_went(sim: SimulatedArm, tmp_path: Path) -> None:
    """At the documented speed of the first day: 24 cm are asked for."""
    settings = settings_for(sim.host, tmp_path)
    careful = replace(settings.limits, speed=0.1)
    arm = open_arm(replace(settings, limits=careful, dynamics=0.1))
    arm.authorize(HASH)
    env = env_on(sim, arm, tmp_path)
    env.reset()
    began = rest(sim)
    labels = [env.step(FORTH)[-1]["action"] for _ in range(6)]
    labels += [env.step(STILL)[-1]["action"] for _ in range(6)]
    went = rest(sim) - began
    arm.close()
    way = 0.04 * np.array(labels)[:, :3].sum(axis=0)
    assert 0.02 < went[0] < 0.08 and length(way - went) < 0.01, (way, went)
    lines = [line for path in flights(settings.flights) for line in read_flight(path)]
    decisions = [line for line in lines if line["what"] == "decision"]
    assert np.allclose([line["done"] for line in decisions], labels, atol=1e-4)
    targets = [line for line in lines if line["what"] == "target"]
    assert 0.0 <= targets[-1]["width"] < 0.09 and len(targets[-1]["wrench"]) == 6


@pytest.mark.slow
def test_the_arm_stays_in_its_box_whatever_a_policy_wants(
    env: PandaRealEnv, sim: SimulatedArm
) -> None:
    env.reset()
    low, high = np.array(env.cell.arm.limits.low), np.array(env.cell.arm.limits.high)
    corner = np.array([high[0], high[1], low[2]])
    began, stopped = time.monotonic(), ""
    while length(sim.hand() - corner) > 0.015 and time.monotonic() < began + 30 and not stopped:
        try:
            env.step(np.array([1, 1, -1, 0, 0, 0, -1], np.float32))
        except ArmStopped as error:  # seen where the machine misses deadlines at full speed
            stopped = str(error)
        hand = sim.hand()
        assert (hand > low - 0.03).all() and (
            hand < high + 0.03
        ).all()  # the targets are within; it swings over
    assert "outside the workspace" in stopped or length(rest(sim) - corner) < 0.02


@pytest.mark.slow
def test_a_policy_that_falls_silent_leaves_the_arm_standing(
    env: PandaRealEnv, sim: SimulatedArm
) -> None:
    env.reset()
    for _ in range(3):
        env.step(FORTH)
    time.sleep(0.2 + SLACK)
    assert env.cell.arm.last_target is None and not env.cell.arm.stopped
    stood = rest(sim)
    time.sleep(0.3)
    assert length(sim.hand() - stood) < 1e-3
    env.step(FORTH)
    assert rest(sim)[0] > stood[0] + 0.003  # and goes on, until it is held again


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["freeze", "kill"])
def test_an_arm_that_hangs_or_is_gone_ends_the_episode_in_one_line(
    env: PandaRealEnv, sim: SimulatedArm, fate: str
) -> None:
    env.reset()
    env.step(FORTH)
    seen = sim.hand()
    env.cell.cameras = dict.fromkeys(env.cell.cameras, Still())
    getattr(sim, fate)()
    began = time.monotonic()
    with pytest.raises(ArmStopped, match="irevla arm release") as told:
        for _ in range(20):
            env.step(FORTH)
    limits = env.cell.arm.limits
    assert time.monotonic() - began < limits.max_age + limits.period + 3 * SLACK
    assert "\n" not in str(told.value) and seen is not None
    began = time.monotonic()
    for motion in (lambda: env.step(FORTH), env.reset):
        with pytest.raises(ArmStopped):
            motion()
    env.cell.arm.close()
    assert time.monotonic() - began < 5  # nothing hangs


@pytest.mark.slow
def test_a_stop_by_a_person_holds_a_moving_arm(arm: SafeArm, sim: SimulatedArm) -> None:
    threading.Timer(0.7, arm.stop, ["a person pressed stop"]).start()
    begin, end = sim.hand(), np.array([0.6, -0.2, 0.15])
    with pytest.raises(ArmStopped, match="a person pressed stop"):
        arm.approach(Pose(end, arm.state().pose.quaternion))
    stood = rest(sim)
    assert length(stood - begin) > 0.01 and length(stood - end) > 0.05
    time.sleep(0.3)
    assert length(sim.hand() - stood) < 1e-3


def test_a_dry_run_moves_nothing(sim: SimulatedArm, tmp_path: Path) -> None:
    arm, before = open_arm(replace(settings_for(sim.host, tmp_path), dry_run=True)), rest(sim)
    width = sim.fingers()
    arm.require(lambda: None)
    arm.authorize(HASH)
    for _ in range(5):
        arm.step(np.array([0.03, 0.0, 0.0]), np.zeros(3), shut=width > 0.04)
        time.sleep(0.1)
    arm.approach(Pose(np.array([0.6, 0.2, 0.1]), arm.state().pose.quaternion))
    time.sleep(0.2)
    assert length(sim.hand() - before) < 1e-3 and abs(sim.fingers() - width) < 1e-3
    arm.close()


@pytest.mark.skipif(Path("/sys/kernel/realtime").exists(), reason="this kernel has it")
def test_a_kernel_without_realtime_is_named(sim: SimulatedArm, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PREEMPT_RT") as told:
        open_arm(replace(settings_for(sim.host, tmp_path), realtime=True))
    assert "\n" not in str(told.value)


def test_no_arm_is_said_in_one_line(tmp_path: Path) -> None:
    settings = settings_for("127.99.99.99", tmp_path)
    with pytest.raises(UserError, match=r"no arm answers at 127\.99\.99\.99") as told:
        open_arm(settings)
    assert "\n" not in str(told.value) and not StopLatch(settings.folder).reason


def driver_of(arm: SafeArm) -> Any:
    """The driver, which nobody but the tests may reach."""
    return arm._SafeArm__driver  # type: ignore[attr-defined]


def test_our_kinematics_are_the_arms_own(arm: SafeArm) -> None:
    """By them alone is it known what SERL's server takes for the fingertips."""
    state = driver_of(arm)._robot.state
    ours = compose(flange_pose(state.q), FRANKA_HAND)
    assert length(ours.position - state.O_T_EE.translation.reshape(3)) < 1e-5
    assert length(turn_between(ours.quaternion, state.O_T_EE.quaternion.reshape(4))) < 1e-5


def test_a_frame_at_the_flange_moves_nothing(arm: SafeArm, sim: SimulatedArm) -> None:
    """The box would hang 10 cm above the fingertips."""
    before = rest(sim)
    back = np.eye(4)
    back[2, 3] = -0.1034
    driver_of(arm)._robot.set_ee(back.flatten(order="F").tolist())
    time.sleep(0.3)
    with pytest.raises(ArmStopped, match=r"its end effector is"):
        arm.step(np.array([0.03, 0.0, 0.0]), np.zeros(3), shut=False)
    assert length(rest(sim) - before) < 0.01


@pytest.mark.parametrize("ends", ["stop", "close"])
def test_the_fingers_stop_with_the_arm(arm: SafeArm, sim: SimulatedArm, ends: str) -> None:
    arm.set_gripper(shut=False)
    wait_until(lambda: sim.fingers() > 0.07)
    time.sleep(1.0)  # they rest
    arm.set_gripper(shut=True)
    wait_until(lambda: sim.fingers() < 0.066)
    if ends == "stop":
        arm.stop("a person pressed stop")
    else:
        arm.close()
    time.sleep(0.2)
    width = sim.fingers()
    time.sleep(1.5)
    assert abs(sim.fingers() - width) < 0.003 and width > 0.01
    if ends == "stop":
        arm.release()
        arm.set_gripper(shut=True)
        wait_until(lambda: sim.fingers() < 0.01)


def wait_until(condition: Callable[[], bool], patience: float = 10.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def test_fingers_find_their_ends_and_a_soft_arm_moves(sim: SimulatedArm, tmp_path: Path) -> None:
    chosen = replace(
        settings_for(sim.host, tmp_path),
        collision=Collision(15.0, 25.0),
        compliance=Compliance(stiffness=1000.0, turn_stiffness=100.0),
    )
    arm = open_arm(chosen)
    arm.require(lambda: None)
    arm.authorize(HASH)
    assert arm.look().width is not None, "from the first state on"
    told = sim.told()
    assert told.pop("K_x") == [1000.0] * 3 + [100.0] * 3
    assert len(told) == 8, "in motion and at rest, lower and upper, of joints and of the hand"
    for name, thresholds in told.items():
        assert set(thresholds) == {15.0 if "torque" in name else 25.0}, name
    began = time.monotonic()
    arm.home_gripper()
    assert time.monotonic() - began > 0.5 and arm.state().width is not None
    goal = arm.state().pose.position + np.array([0.0, 0.03, 0.0])
    arm.approach(Pose(goal, arm.state().pose.quaternion))
    assert length(rest(sim) - goal) < 0.01
    arm.close()


def test_a_careful_arm_brakes_by_all_that_it_has(sim: SimulatedArm, tmp_path: Path) -> None:
    """At 0.27 m/s, a tenth of its dynamics would let it go on for 2.7 cm, all of them for 0.4."""
    arm = open_arm(replace(settings_for(sim.host, tmp_path), dynamics=0.1))
    arm.require(lambda: None)
    arm.authorize(HASH)
    robot = driver_of(arm)._robot
    arm.approach(Pose(np.array([0.5, -0.2, 0.3]), arm.state().pose.quaternion))
    for _ in range(13):
        arm.step(np.array([0.0, 0.04, 0.0]), np.zeros(3), shut=False)
        time.sleep(0.1)
    before = robot.state
    arm.stop("a person pressed stop")
    began = time.monotonic()
    way = [0.0]
    while time.monotonic() < began + 0.6:
        way.append(robot.state.O_T_EE.translation[1] - before.O_T_EE.translation[1])
        time.sleep(0.01)
    speed = before.O_dP_EE_d.linear[1]
    arm.close()
    assert speed > 0.15, "it moved"
    assert max(way) < 0.2 * speed**2, (max(way), speed)


# --- franky's Cartesian impedance: a spring pulls the hand


def spring_arm(sim: SimulatedArm, folder: Path, **soft: float) -> SafeArm:
    compliance = Compliance(motion="impedance", **soft)
    arm = open_arm(replace(settings_for(sim.host, folder), compliance=compliance))
    arm.require(lambda: None)
    arm.authorize(HASH)
    return arm


def test_a_spring_leads_the_hand_to_its_start_and_holds_it(
    sim: SimulatedArm, tmp_path: Path
) -> None:
    arm = spring_arm(sim, tmp_path)
    goal = Pose(np.array([0.5, 0.1, 0.25]), arm.state().pose.quaternion)
    arm.approach(goal)
    arm.hold()
    stood = rest(sim)
    assert length(stood - goal.position) < 0.01
    time.sleep(0.5)
    assert length(sim.hand() - stood) < 1e-3, "the arm's own controller keeps it there"
    arm.approach(replace(goal, position=goal.position - np.array([0.0, 0.04, 0.0])))
    assert rest(sim)[1] < stood[1] - 0.03, "and the next command moves it again"
    arm.close()


def test_a_stop_holds_a_hand_that_a_spring_pulls(sim: SimulatedArm, tmp_path: Path) -> None:
    """The spring's force ends at stiffness times clip, and so does its speed: 0.22 m/s."""
    arm = spring_arm(sim, tmp_path)
    arm.approach(Pose(np.array([0.5, -0.2, 0.3]), arm.state().pose.quaternion))
    robot = driver_of(arm)._robot
    speeds = [0.0]
    while speeds[-1] < 0.15 and len(speeds) < 100:  # a busy machine's simulator is slow
        arm.step(np.array([0.0, 0.04, 0.0]), np.zeros(3), shut=False)
        time.sleep(0.1)
        speeds.append(robot.state.O_dP_EE_est.linear[1])
    before = robot.state.O_T_EE.translation[1]
    arm.stop("a person pressed stop")
    way = [0.0]

    def rests() -> bool:
        way.append(robot.state.O_T_EE.translation[1] - before)
        return not robot.is_in_control

    wait_until(rests)  # by the arm's own controller from now on
    assert 0.15 <= max(speeds) < 0.25 and 0.001 < max(way) < 0.025, (max(speeds), max(way))
    with pytest.raises(ArmStopped):
        arm.step(np.array([0.0, 0.04, 0.0]), np.zeros(3), shut=False)
    arm.close()
