"""The whole way, as `irevla eval --suite panda` goes it: a worker process, settings in a file, a simulated arm behind
libfranka's protocol, its pictures as a video stream over HTTP, and a person at another process's keys."""

import io
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

pytest.importorskip("franky")
pytest.importorskip("franky_sim")
pytest.importorskip("cv2")

from loopback import Seen, SimulatedArm

from irevla.config import EnvConfig
from irevla.envs.base import Supervised, load_suite
from irevla.envs.panda.suite import CAMERA_POS, LOOK_AT
from irevla.envs.real.person import READY, send_keys
from irevla.envs.real.settings import FILE
from irevla.envs.real.suite import POLICY
from irevla.envs.vector import Job, Slots, VectorEnv
from irevla.errors import UserError
from irevla.rollout import play

pytestmark = pytest.mark.slow
HASH = "ab" * 32


class Stream(ThreadingHTTPServer):
    """The newest picture, 20 times a second, as network cameras send it (MJPEG)."""

    daemon_threads = True

    def __init__(self) -> None:
        self.picture, self.over = b"", False
        super().__init__(("127.0.0.1", 0), Frames)

    def handle_error(self, request: object, client_address: object) -> None:
        """The reader has left."""


class Frames(BaseHTTPRequestHandler):
    server: Stream

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        while not self.server.over:
            self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + self.server.picture + b"\r\n")
            time.sleep(0.05)

    def log_message(self, *words: object) -> None:
        pass


class Forth:
    """A policy: forth, with open fingers. Remembers what it saw, and where the simulator's hand was then."""

    def __init__(self, sim: SimulatedArm) -> None:
        self._sim = sim
        self.seen: list[np.ndarray] = []
        self.hands: list[float] = []

    def act(self, slots: Slots, instructions: tuple[str, ...]) -> np.ndarray:
        self.seen.append(slots.images[0])
        self.hands.append(float(self._sim.hand()[0]))
        return np.array([[0.5, 0, 0, 0, 0, 0, -1]], np.float32)


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[SimulatedArm, Path]]:
    with SimulatedArm() as sim:
        stream, seen = Stream(), Seen(sim, CAMERA_POS, LOOK_AT)

        def draw() -> None:
            file = io.BytesIO()
            Image.fromarray(seen.read()).save(file, "JPEG")
            stream.picture = file.getvalue()

        draw()
        threading.Thread(target=stream.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        camera = {"kind": "opencv", "device": f"http://127.0.0.1:{stream.server_port}/stream.mjpg"}
        found = {
            "driver": "franka", "host": sim.host, "dry_run": False, "realtime": False, "dynamics": 0.2,
            "workspace": {"low": [0.35, -0.25, 0.05], "high": [0.65, 0.25, 0.5]},
            "home": {"position": [0.42, 0.0, 0.3]}, "cameras": {"front": camera, "wrist": camera},
            "limits": {"max_age": 0.5},
        }  # fmt: skip
        path = tmp_path / "arm.yaml"
        path.write_text(yaml.safe_dump(found))
        monkeypatch.setenv(FILE, str(path))
        monkeypatch.setenv(POLICY, HASH)
        yield sim, path
        stream.over = True
        stream.shutdown()
        stream.server_close()


def person(path: Path, over: threading.Event) -> threading.Thread:
    """Things are always in place."""

    def read(seconds: float) -> str:
        time.sleep(0.1)
        return "\x03" if over.is_set() else READY

    thread = threading.Thread(target=send_keys, args=(path.with_suffix(".keys"), read), daemon=True)
    thread.start()
    return thread


def test_a_policy_acts_on_the_arm_through_a_worker(cell: tuple[SimulatedArm, Path]) -> None:
    sim, path = cell
    suite, over, policy = load_suite("panda"), threading.Event(), Forth(sim)
    assert isinstance(suite, Supervised)
    env = suite.admit(HASH, EnvConfig(image_size=64, horizon=30))
    thread = person(path, over)
    with VectorEnv("panda", env, iter([Job("pick-red-block", 0), Job("pick-carrot", 1)])) as vec:
        time.sleep(1.0)
        outcomes = list(play(vec, policy, keep_images=True, policy_hash=HASH))
    over.set()
    thread.join()
    assert [outcome.job.task for outcome in outcomes] == ["pick-red-block", "pick-carrot"]
    assert [outcome.length for outcome in outcomes] == [30, 30] and not any(outcome.success for outcome in outcomes)
    assert max(policy.hands) - 0.42 > 0.03, policy.hands  # 60 cm were asked for, of a simulator without time
    assert len(np.unique(policy.seen[0].reshape(-1, 3), axis=0)) > 50
    assert not path.with_suffix(".stopped.json").exists()  # it closed in order


def test_what_a_worker_refuses_is_said_in_one_line(
    cell: tuple[SimulatedArm, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sim, path = cell
    env = EnvConfig(image_size=64, horizon=8, workers=1, envs_per_worker=1, timeout=600.0)

    def error() -> str:
        with pytest.raises(UserError) as told, VectorEnv("panda", env, iter([Job("pick-carrot", 0)])) as vec:
            list(play(vec, Forth(sim)))
        assert "\n" not in str(told.value)
        return str(told.value)

    assert "irevla arm keys" in error()
    path.with_suffix(".stopped.json").write_text(json.dumps({"pid": 999999999, "stopped": ""}))
    over = threading.Event()
    thread = person(path, over)
    assert "the last session ended without closing" in error() or "irevla arm keys" in error()
    over.set()
    thread.join()
