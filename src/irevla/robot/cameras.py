"""Where images come from, and how two of them become what the policy sees: the same image as
`panda-sim` renders."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from irevla.envs.panda.tasks import WRIST_SHARE
from irevla.errors import UserError
from irevla.robot.settings import BOTH, WHOLE, CameraSettings, Crop, DetectorSettings

MAX_AGE = 0.3  # s: an older image shows another world
FROZEN = 1.0  # s: a camera whose images do not change so long shows none of the present
AGAIN = 1.0  # s between two tries to open it again
REOPENING = 5.0  # s that an arm that stands waits for one that opens itself again
PATIENCE = 5.0  # s until the first image
V4L2_BY_HAND = 1  # what Linux calls an exposure that is not automatic

Grab = Callable[[], np.ndarray | None]
"""Waits for the next image, RGB; None: there was none."""

Device = tuple[Grab, Callable[[], None]]
"""How images come, and how it is let go."""


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


def in_one(cameras: Mapping[str, Camera], *, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Return what the front camera and that of the wrist show now."""
    return compose(cameras["front"].read(), cameras["wrist"].read(), size=size)


def view_of(
    detector: DetectorSettings, cameras: Mapping[str, Camera], *, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Return what a classifier sees now: both cameras in one image, or its own part of one."""
    if detector.camera == BOTH:
        return in_one(cameras, size=size)
    part = np.ascontiguousarray(cropped(cameras[detector.camera].read(), detector.crop))
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

    Devices queue images: who reads only when one is needed gets an old one. One that shows nothing
    new is let go, and opened again by `reopen`; meanwhile it has no image of the present.
    """

    def __init__(
        self,
        name: str,
        grab: Grab,
        release: Callable[[], None],
        *,
        upside_down: bool = False,
        crop: Crop = WHOLE,
        reopen: Callable[[], Device] | None = None,
    ) -> None:
        self._name = name
        self._grab = grab
        self._release = release
        self._flip = upside_down
        self._crop = crop
        self._reopen = reopen
        self._newest: tuple[float, np.ndarray] | None = None  # when it was taken, and the image
        self._changed = 0.0  # when it last was another than before: a sensor's noise is never still
        self._tried = -AGAIN  # when it was last opened again
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
        self._changed = time.monotonic()
        while not self._over.is_set():
            if time.monotonic() - self._changed > FROZEN:
                self._open_again()
            image = self._grab()
            if image is None:
                time.sleep(0.01)
                continue
            if self._flip:
                image = image[::-1, ::-1]
            image = cropped(image, self._crop)
            now = time.monotonic()
            if self._newest is None or not np.array_equal(image, self._newest[1]):
                self._changed = now
            self._newest = (now, image)
            self._first.set()

    def _open_again(self) -> None:
        """At most once in `AGAIN` s: a device that is gone answers nobody."""
        if self._reopen is None or time.monotonic() - self._tried < AGAIN:
            return
        self._release()
        try:
            self._grab, self._release = self._reopen()
        except UserError:  # who asks for an image is told
            self._grab, self._release = _none, _nothing
        self._tried = time.monotonic()


def _none() -> None:
    return None


def _nothing() -> None:
    pass


def open_camera(name: str, settings: CameraSettings) -> Camera:
    """Return the camera that the settings describe.

    Raises `UserError` where it, or its package, is missing.
    """
    opened = _opencv if settings.kind == "opencv" else _realsense

    def reopen() -> Device:
        return opened(name, settings)

    return Streaming(
        name, *reopen(), upside_down=settings.upside_down, crop=settings.crop, reopen=reopen
    )


def _opencv(name: str, settings: CameraSettings) -> Device:
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
    if settings.exposure:
        capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, V4L2_BY_HAND)
        if not capture.set(cv2.CAP_PROP_EXPOSURE, settings.exposure):
            capture.release()
            raise UserError(
                f"the {name} camera takes no exposure {settings.exposure:g}: `v4l2-ctl "
                "--list-ctrls` shows what it takes, or leave it out"
            )

    def grab() -> np.ndarray | None:
        taken, image = capture.read()
        return image[:, :, ::-1] if taken else None  # OpenCV's are BGR

    return grab, capture.release


def _realsense(name: str, settings: CameraSettings) -> Device:
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
        profile = pipeline.start(config)
        if settings.exposure:
            sensor = profile.get_device().first_color_sensor()
            sensor.set_option(pyrealsense2.option.enable_auto_exposure, 0)
            sensor.set_option(pyrealsense2.option.exposure, settings.exposure)
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

    return grab, pipeline.stop
