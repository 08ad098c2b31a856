"""Where images come from, and how two of them become what the policy sees: the same image as
`panda-sim` renders."""

import threading
import time
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from irevla.envs.panda.tasks import WRIST_SHARE
from irevla.errors import UserError
from irevla.robot.settings import CameraSettings, Crop, DetectorSettings

MAX_AGE = 0.3  # s: an older image shows another world
FROZEN = 1.0  # s: a camera whose images do not change so long shows none of the present
PATIENCE = 5.0  # s until the first image


class CameraError(UserError):
    """A camera gives no fresh images."""


@runtime_checkable
class Camera(Protocol):
    """Gives images."""

    def read(self) -> UInt8[np.ndarray, "H W 3"]:
        """Return the newest image, RGB, its first row at the top; at once. Raises `CameraError`."""
        ...

    def check(self) -> None:
        """Raise `CameraError` where the newest image is not of the present."""
        ...

    def close(self) -> None:
        """Let the device go."""
        ...


def compose(
    front: UInt8[np.ndarray, "H W 3"], wrist: UInt8[np.ndarray, "h w 3"], *, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Return the middle square of the front image, with that of the wrist's over its top left
    corner."""
    image = square(front, size)
    side = round(WRIST_SHARE * size)
    image[:side, :side] = square(wrist, side)
    return image


def view_of(
    detector: DetectorSettings,
    front: UInt8[np.ndarray, "H W 3"],
    wrist: UInt8[np.ndarray, "h w 3"],
    *,
    size: int,
) -> UInt8[np.ndarray, "size size 3"]:
    """Return what a classifier sees: the policy's image, or its own part of one camera's."""
    if detector.camera == "both":
        return compose(front, wrist, size=size)
    part = np.ascontiguousarray(
        cropped(front if detector.camera == "front" else wrist, detector.crop)
    )
    return np.array(Image.fromarray(part).resize((size, size), Image.Resampling.BOX))


def cropped(image: UInt8[np.ndarray, "H W 3"], crop: Crop) -> UInt8[np.ndarray, "h w 3"]:
    """Return a part of an image, a pixel at least."""
    height, width, _ = image.shape
    left, top, right, bottom = crop
    x, y = round(left * width), round(top * height)
    return image[y : max(y + 1, round(bottom * height)), x : max(x + 1, round(right * width))]


def square(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Return the middle square, at another size."""
    height, width, _ = image.shape
    side = min(height, width)
    top = (height - side) // 2
    left = (width - side) // 2
    cut = Image.fromarray(np.ascontiguousarray(image[top : top + side, left : left + side]))
    return np.array(cut.resize((size, size), Image.Resampling.BOX))


class Streaming:
    """The newest image of a device whose `grab` waits for the next one, or returns None.

    Devices queue images: who reads only when one is needed gets an old one.
    """

    def __init__(self, name: str, grab: Any, release: Any, *, upside_down: bool = False) -> None:
        self._name = name
        self._grab = grab
        self._release = release
        self._flip = upside_down
        self._newest: tuple[float, np.ndarray] | None = None  # when it was taken, and the image
        self._changed = 0.0  # when it last was another than before: a sensor's noise is never still
        self._first = threading.Event()  # one has come
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"camera-{name}", daemon=True)
        self._thread.start()
        if not self._first.wait(PATIENCE) or self._newest is None:
            self.close()
            raise CameraError(f"the {name} camera gives no image: is another program using it?")

    def read(self) -> UInt8[np.ndarray, "H W 3"]:
        """Return the newest image. Raises `CameraError` as `check` does."""
        self.check()
        assert self._newest is not None
        return self._newest[1]

    def check(self) -> None:
        """Raise `CameraError` where the image is older than `MAX_AGE`, or frozen."""
        assert self._newest is not None
        now = time.monotonic()
        age = now - self._newest[0]
        if age > MAX_AGE:
            raise CameraError(f"the {self._name} camera has given no image for {age:.1f} s")
        still = now - self._changed
        if still > FROZEN:
            raise CameraError(
                f"the {self._name} camera has shown the same image for {still:.1f} s: it is frozen"
            )

    def close(self) -> None:
        """Let the device go."""
        self._over.set()
        self._thread.join(2.0)
        self._release()

    def _run(self) -> None:
        while not self._over.is_set():
            image = self._grab()
            if image is None:
                time.sleep(0.01)
                continue
            if self._flip:
                image = image[::-1, ::-1]
            now = time.monotonic()
            if self._newest is None or not np.array_equal(image, self._newest[1]):
                self._changed = now
            self._newest = (now, image)
            self._first.set()


def open_camera(name: str, settings: CameraSettings) -> Camera:
    """Return the camera that the settings describe.

    Raises `UserError` where it, or its package, is missing.
    """
    if settings.kind == "opencv":
        return _opencv(name, settings)
    return _realsense(name, settings)


def _opencv(name: str, settings: CameraSettings) -> Camera:
    try:
        import cv2
    except ImportError as error:
        raise UserError(f"the {name} camera needs OpenCV: pip install 'irevla[franka]'") from error
    device = int(settings.device) if settings.device.isdigit() else settings.device
    capture = cv2.VideoCapture(device)
    if not capture.isOpened():
        raise UserError(
            f"the {name} camera {settings.device!r} cannot be opened: `ls /dev/video*` shows which "
            "there are"
        )

    def grab() -> np.ndarray | None:
        taken, image = capture.read()
        return image[:, :, ::-1] if taken else None  # OpenCV's are BGR

    return Streaming(name, grab, capture.release, upside_down=settings.upside_down)


def _realsense(name: str, settings: CameraSettings) -> Camera:
    try:
        import pyrealsense2
    except ImportError as error:
        raise UserError(f"the {name} camera needs its package: pip install pyrealsense2") from error
    pipeline = pyrealsense2.pipeline()
    config = pyrealsense2.config()
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
