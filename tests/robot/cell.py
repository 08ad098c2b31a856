"""A cell on loopback, as worker processes find it: a simulated arm behind libfranka's protocol,
what a camera sees of it as a video stream over HTTP, and a person at another process's keys."""

import io
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import yaml
from loopback import Seen, SimulatedArm
from person import AtTheKeys
from PIL import Image

from irevla.envs.panda.tasks import CAMERA_POS, LOOK_AT
from irevla.robot.settings import Settings, read_settings
from irevla.robot.stop_latch import StopLatch
from irevla.robot.teleop import READY

RATE = 15  # images a second


class Stream(ThreadingHTTPServer):
    """The newest image, again and again, as network cameras send it (MJPEG)."""

    daemon_threads = True

    def __init__(self) -> None:
        self.image, self.over = b"", False
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
            self.wfile.write(
                b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + self.server.image + b"\r\n"
            )
            time.sleep(1 / RATE)

    def log_message(self, *words: object) -> None:
        pass


def noisy(image: np.ndarray) -> np.ndarray:
    """As a sensor gives it: never twice the same."""
    noise = np.random.default_rng().integers(-3, 4, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


class SimulatedCell:
    """`with SimulatedCell(path) as cell`: settings at `path` name the arm `cell.sim` and its
    images."""

    def __init__(self, path: Path) -> None:
        self.path, self.sim = path, SimulatedArm()
        self.stream, self._over, self._drawn = Stream(), threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._film, daemon=True),
            threading.Thread(
                target=self.stream.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
            ),
        ]
        self._changes: dict[str, Any] = {}
        self.describe()

    def describe(self, **changes: Any) -> None:
        """Write the settings; what is changed stays so."""
        self._changes |= changes
        camera = {
            "kind": "opencv",
            "device": f"http://127.0.0.1:{self.stream.server_port}/stream.mjpg",
        }
        found = {
            "driver": "franka", "host": self.sim.host, "realtime": False, "dynamics": 0.2,
            "dry_run": False,
            "workspace": {"low": [0.35, -0.25, 0.05], "high": [0.65, 0.25, 0.5]},
            "home": {"position": [0.42, 0.0, 0.3]}, "cameras": {"front": camera, "wrist": camera},
            "limits": {"max_age": 0.5},
        }  # fmt: skip
        self.path.write_text(yaml.safe_dump(found | self._changes))

    @property
    def settings(self) -> Settings:
        return read_settings(self.path)

    @property
    def stop_latch(self) -> StopLatch:
        return StopLatch(self.settings.folder)

    def replace_arm(self) -> None:
        """A new one in its place: franky-sim 1.0.4 loses its second client after a while."""
        self.sim.close()
        self.sim = SimulatedArm()
        self.describe()

    def person(self, says: Callable[[], str] = lambda: READY) -> AtTheKeys:
        """Somebody who looks ten times a second and presses what `says` says (nothing: a sign of
        life)."""
        return AtTheKeys(self.path, says)

    def _film(self) -> None:
        """In this thread alone: the renderer's context is of one thread."""
        filmed: SimulatedArm | None = None
        while not self._over.is_set():
            try:
                if filmed is not self.sim:
                    filmed = self.sim
                    seen = Seen(filmed, CAMERA_POS, LOOK_AT)
                image = seen.read()
            except OSError:  # the arm is being replaced
                pass
            file = io.BytesIO()
            Image.fromarray(noisy(image)).save(file, "JPEG", quality=95)
            self.stream.image = file.getvalue()
            self._drawn.set()
            time.sleep(1 / RATE)

    def __enter__(self) -> "SimulatedCell":
        for thread in self._threads:
            thread.start()
        assert self._drawn.wait(30), "no image"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self.stream.over = True
        self.stream.shutdown()
        self.stream.server_close()
        for thread in self._threads:
            thread.join(5)
        self.sim.close()
