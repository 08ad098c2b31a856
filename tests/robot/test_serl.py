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
from irevla.robot.drivers.serl import SerlDriver
from irevla.robot.pose import Pose
from irevla.robot.safe_arm import ArmStopped, SafeArm


class Server(ThreadingHTTPServer):
    """An arm that goes where it is told, with a little noise in its readings."""

    daemon_threads = True

    def __init__(self) -> None:
        self.pose = [0.5, 0.0, 0.25, *DOWN.tolist()]
        self.calls: list[tuple[str, Any]] = []
        self.mood = "well"
        super().__init__(("127.0.0.1", 0), Handler)

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
            noise = 0.0 if server.mood == "frozen" else time.monotonic() * 1e-9
            answer = {"pose": server.pose, "q": [noise] * 7, "gripper_pos": 0.08}
            if server.mood == "nan":
                answer["pose"] = [float("nan")] * 7
            if server.mood == "short":
                answer["pose"] = server.pose[:3]
        else:
            server.calls.append((self.path, body))
            if self.path == "/pose":
                server.pose = body["arr"]
        self.send_response(500 if server.mood == "broken" else 200)
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
        ("nan", "not sound"),
        ("short", "3 numbers instead of 7"),
        ("broken", "answers 500"),
    ],
)
def test_a_server_in_a_bad_mood_stops_the_arm_within_two_periods(
    arm: SafeArm, server: Server, mood: str, words: str
) -> None:
    arm.step(np.array([0.01, 0.0, 0.0]), STILL, shut=False)
    server.mood, began = mood, time.monotonic()
    while not arm.stopped and time.monotonic() < began + 2:
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


def test_no_server_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match="no robot server answers at http"):
        SerlDriver("http://127.0.0.1:1", timeout=0.1)
    with pytest.raises(UserError, match="http://HOST:PORT"):
        SerlDriver("172.16.0.2", timeout=0.1)
