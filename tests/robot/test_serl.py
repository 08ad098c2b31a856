"""SERL's robot server: against a little one with its routes, that can hang, fall silent, and talk
nonsense."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from fakes import DOWN, LIMITS, STILL

from irevla.envs.suite import PERSON
from irevla.errors import UserError
from irevla.robot.brake import ArmStopped
from irevla.robot.driver import FRANKA_HAND
from irevla.robot.drivers.serl import SerlDriver
from irevla.robot.kinematics import flange_pose
from irevla.robot.pose import Pose, compose, length, seen_from, turn_between
from irevla.robot.safe_arm import SafeArm
from irevla.robot.settings import Compliance

ORIGIN = Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
START = np.array([0.0, -0.2, 0.0, -2.4, 0.0, 2.2, 0.785])  # joints, rad


def hand_pose(joints: np.ndarray, frame: Pose = FRANKA_HAND) -> Pose:
    return compose(flange_pose(joints), frame)


def joints_for(hand: Pose, near: np.ndarray) -> np.ndarray:
    """Joints that bring the hand there, by Newton's method from joints that nearly do."""
    joints = near.copy()
    for _ in range(8):
        now = hand_pose(joints)
        wrong = difference(now, hand)
        if length(wrong) < 1e-7:
            break
        columns = [difference(now, hand_pose(joints + 1e-4 * unit)) for unit in np.eye(7)]
        joints = joints + np.linalg.lstsq(np.stack(columns, 1) / 1e-4, wrong, rcond=None)[0]
    return joints


def difference(start: Pose, end: Pose) -> np.ndarray:
    way = end.position - start.position
    return np.concatenate([way, turn_between(start.quaternion, end.quaternion)])


class Server(ThreadingHTTPServer):
    """An arm that goes where it is told, with a little noise in its readings."""

    daemon_threads = True

    def __init__(self) -> None:
        self.joints = joints_for(Pose(np.array([0.5, 0.0, 0.25]), DOWN), START)
        self.frame = FRANKA_HAND  # what it takes for the fingertips
        self.calls: list[tuple[str, Any]] = []
        self.mood = "well"
        self.refuses = ""
        self.wrench: dict[str, Any] = {"force": [1, 2, 3], "torque": [0.1, 0.2, 0.3]}
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def pose(self) -> list[float]:
        hand = hand_pose(self.joints, self.frame)
        return [*hand.position.tolist(), *hand.quaternion.tolist()]

    def move(self, numbers: list[float]) -> None:
        """The hand itself is where the frame is not: the arm believes its frame."""
        flange = compose(
            Pose(np.array(numbers[:3]), np.array(numbers[3:])), seen_from(self.frame, ORIGIN)
        )
        self.joints = joints_for(compose(flange, FRANKA_HAND), self.joints)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if server.mood == "hung":
            time.sleep(1.0)
        answer: Any = "ok"
        if self.path == "/getstate":
            now = time.monotonic()
            noise = 0.0 if server.mood in ("frozen", "fingers") else now * 1e-9
            width = now if server.mood == "fingers" else 0.08  # they alone move
            joints = (server.joints + noise).tolist()
            answer = {"pose": server.pose, "q": joints, "gripper_pos": width} | server.wrench
            if server.mood == "nan":
                answer["pose"] = [float("nan")] * 7
            if server.mood == "short":
                answer["pose"] = server.pose[:3]
        else:
            server.calls.append((self.path, body))
            if self.path == "/pose":
                server.move(body["arr"])
        broken = server.mood == "broken" or self.path == server.refuses
        self.send_response(500 if broken else 200)
        content = json.dumps(answer).encode()
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def arm(server: Server) -> Iterator[SafeArm]:
    arm = SafeArm(SerlDriver(server.url, timeout=0.1), LIMITS, announce=lambda text: None)
    arm.require(lambda: None)
    arm.authorize(PERSON)
    arm.start_watchdog()
    yield arm
    arm.close()


def test_it_moves_and_grips_by_the_servers_routes(arm: SafeArm, server: Server) -> None:
    arm.step(np.array([0.03, 0.0, 0.0]), STILL, shut=True)
    assert [path for path, _ in server.calls] == ["/pose", "/close_gripper"]
    assert np.allclose(server.calls[0][1]["arr"], [0.53, 0.0, 0.25, *DOWN])
    arm.approach(Pose(np.array([0.5, 0.0, 0.28]), DOWN))
    arm.set_gripper(shut=False)
    assert (
        np.allclose(server.pose[:3], [0.5, 0.0, 0.28], atol=0.01)
        and server.calls[-1][0] == "/open_gripper"
    )
    assert "/jointreset" not in {path for path, _ in server.calls}


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        ("hung", "cannot be read|s old|command failed"),
        ("frozen", "s old"),
        ("fingers", "s old"),
        ("nan", "not sound"),
        ("short", "3 numbers instead of 7"),
        ("broken", "answers 500"),
    ],
)
def test_a_server_in_a_bad_mood_stops_the_arm_within_two_periods(
    arm: SafeArm, server: Server, mood: str, words: str
) -> None:
    arm.step(STILL, STILL, shut=False)
    server.mood, began = mood, time.monotonic()
    while arm.last_target is not None and time.monotonic() < began + 2:
        time.sleep(0.005)  # the watchdog alone looks
    took = time.monotonic() - began
    with pytest.raises(ArmStopped, match=words):
        arm.step(np.array([0.01, 0.0, 0.0]), STILL, shut=False)
    assert took < 2 * LIMITS.period + 0.1  # of which 0.1 s is for a busy machine


def test_a_server_that_is_gone_stops_the_arm(server: Server) -> None:
    arm = SafeArm(SerlDriver(server.url, timeout=0.1), LIMITS, announce=lambda text: None)
    arm.require(lambda: None)
    arm.authorize(PERSON)
    server.shutdown()
    server.server_close()
    time.sleep(0.15)
    began = time.monotonic()
    with pytest.raises(ArmStopped):
        arm.step(np.array([0.01, 0.0, 0.0]), STILL, shut=False)
    assert time.monotonic() - began < 1.0
    arm.close()


@pytest.mark.parametrize("when", ["before it moves", "while it moves"])
def test_a_frame_that_is_not_at_the_fingertips_stops_the_arm(
    arm: SafeArm, server: Server, when: str
) -> None:
    """At the flange: the box would hang 10 cm above the fingers. The server tells no frame; joints
    and pose do."""
    if when == "while it moves":
        arm.step(np.array([0.01, 0.0, 0.0]), STILL, shut=False)
    sent = len(server.calls)
    server.frame = ORIGIN
    time.sleep(0.15)
    with pytest.raises(ArmStopped, match=r"its end effector is|its hand jumped by 10"):
        for _ in range(5):
            arm.step(np.array([0.01, 0.0, 0.0]), STILL, shut=False)
            time.sleep(0.1)
    assert len([path for path, _ in server.calls[sent:] if path == "/pose"]) <= 1, "the hold"


def test_a_reading_of_two_moments_is_not_taken_for_another_frame(server: Server) -> None:
    """The server answers while it reads: now and then the joints are those of a moment ago."""
    driver = SerlDriver(server.url, timeout=0.5)
    driver._polled.close()
    before = server.joints
    server.move([0.52, 0.0, 0.25, *DOWN.tolist()])
    now = server.joints
    for joints in (now, before, now, now, before, now):
        seen = driver._seen_frame(hand_pose(now), joints)
        assert length(seen.position - FRANKA_HAND.position) < 1e-6
    driver._seen_frame(hand_pose(now, ORIGIN), now)
    assert length(driver._seen_frame(hand_pose(now, ORIGIN), now).position) < 1e-6, "twice"


def test_no_server_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match="no robot server answers at http"):
        SerlDriver("http://127.0.0.1:1", timeout=0.1)
    with pytest.raises(UserError, match="http://HOST:PORT"):
        SerlDriver("172.16.0.2", timeout=0.1)


def test_a_server_is_told_its_compliance_and_may_refuse(server: Server) -> None:
    SerlDriver(server.url, timeout=0.5, compliance=Compliance(stiffness=500.0)).close()
    path, body = server.calls[-1]
    assert path == "/update_param" and body["translational_stiffness"] == 500.0
    server.refuses = "/update_param"
    with pytest.raises(UserError, match="takes no compliance"):
        SerlDriver(server.url, timeout=0.5, compliance=Compliance())


def test_width_and_wrench_are_what_the_server_says(server: Server) -> None:
    driver = SerlDriver(server.url, timeout=0.5)
    state = driver.state()
    assert state.width == 0.08 and state.wrench == (1.0, 2.0, 3.0, 0.1, 0.2, 0.3)
    server.wrench = {"force": "much"}
    time.sleep(0.1)
    assert driver.state().wrench is None
    driver.close()
