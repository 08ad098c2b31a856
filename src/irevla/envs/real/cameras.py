"""Where pictures come from, and how two of them become what the policy sees: the same picture as
`panda-sim` draws."""

import threading
import time
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from irevla.envs.panda.suite import WRIST_SHARE
from irevla.envs.real.settings import CameraSettings
from irevla.errors import UserError

MAX_AGE = 0.3  # s: an older picture shows another world
PATIENCE = 5.0  # s until the first picture


class CameraError(UserError):
    """A camera gives no fresh pictures."""


@runtime_checkable
class Camera(Protocol):
    """Gives pictures."""

    def read(self) -> UInt8[np.ndarray, "H W 3"]:
        """The newest picture, RGB, its first row at the top; at once. Raises `CameraError`."""
        ...

    def close(self) -> None:
        """Let the device go."""
        ...


def compose(
    front: UInt8[np.ndarray, "H W 3"], wrist: UInt8[np.ndarray, "h w 3"], *, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """The middle square of the front view, with that of the wrist's view over its top left
    corner."""
    picture, side = square(front, size), round(WRIST_SHARE * size)
    picture[:side, :side] = square(wrist, side)
    return picture


def square(picture: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The middle square, at another size."""
    height, width, _ = picture.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = Image.fromarray(np.ascontiguousarray(picture[top : top + side, left : left + side]))
    return np.array(cut.resize((size, size), Image.Resampling.BOX))


class Streaming:
    """The newest picture of a device whose `grab` waits for the next one. (Devices queue pictures:
    who reads only when he needs one gets an old one.)"""

    def __init__(self, name: str, grab: Any, release: Any, *, upside_down: bool = False) -> None:
        self._name, self._grab, self._release, self._flip = name, grab, release, upside_down
        self._newest: tuple[float, np.ndarray] | None = None
        self._first, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"camera-{name}", daemon=True)
        self._thread.start()
        if not self._first.wait(PATIENCE) or self._newest is None:
            self.close()
            raise CameraError(f"the {name} camera gives no picture: is another program using it?")

    def read(self) -> UInt8[np.ndarray, "H W 3"]:
        """The newest picture."""
        assert self._newest is not None
        taken, picture = self._newest
        if time.monotonic() - taken > MAX_AGE:
            raise CameraError(
                f"the {self._name} camera has given no picture for {time.monotonic() - taken:.1f} s"
            )
        return picture

    def close(self) -> None:
        """Let the device go."""
        self._over.set()
        self._thread.join(2.0)
        self._release()

    def _run(self) -> None:
        while not self._over.is_set():
            picture = self._grab()
            if picture is None:
                time.sleep(0.01)
                continue
            self._newest = time.monotonic(), picture[::-1, ::-1] if self._flip else picture
            self._first.set()


def open_camera(name: str, settings: CameraSettings) -> Camera:
    """The camera that the settings describe. Raises `UserError` where it, or its package, is
    missing."""
    return (_opencv if settings.kind == "opencv" else _realsense)(name, settings)


def _opencv(name: str, settings: CameraSettings) -> Camera:
    try:
        import cv2
    except ImportError as error:
        raise UserError(f"the {name} camera needs OpenCV: pip install 'irevla[franka]'") from error
    device = int(settings.device) if settings.device.isdigit() else settings.device
    capture = cv2.VideoCapture(device)
    if not capture.isOpened():
        raise UserError(
            f"the {name} camera {settings.device!r} cannot be opened: `ls /dev/video*` shows which there are"
        )

    def grab() -> np.ndarray | None:
        there, picture = capture.read()
        return picture[:, :, ::-1] if there else None  # OpenCV's are BGR

    return Streaming(name, grab, capture.release, upside_down=settings.upside_down)


def _realsense(name: str, settings: CameraSettings) -> Camera:
    try:
        import pyrealsense2
    except ImportError as error:
        raise UserError(f"the {name} camera needs its package: pip install pyrealsense2") from error
    pipeline, config = pyrealsense2.pipeline(), pyrealsense2.config()
    if settings.device:
        config.enable_device(settings.device)
    config.enable_stream(pyrealsense2.stream.color, 640, 480, pyrealsense2.format.rgb8, 30)
    try:
        pipeline.start(config)
    except RuntimeError as error:
        raise UserError(
            f"the {name} camera (RealSense {settings.device or 'any'}) does not start: {error}"
        ) from error

    def grab() -> np.ndarray | None:
        try:
            frame = pipeline.wait_for_frames(1000).get_color_frame()
        except RuntimeError:  # none within a second
            return None
        return np.array(frame.get_data()) if frame else None

    return Streaming(name, grab, pipeline.stop, upside_down=settings.upside_down)
