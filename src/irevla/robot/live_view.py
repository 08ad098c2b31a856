"""What the policy sees, for a person who watches with `irevla arm view`: read from the cameras by a
thread, some times a second, and sent to a socket where that listens. Where nobody does, nothing is
read; and whoever listens keeps nobody waiting."""

import io
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from irevla.robot.cameras import Camera, CameraError, in_one, square
from irevla.robot.settings import POLICY_CAMERAS

PERIOD = 0.2  # s between two pictures
SIDE = 256  # pixels that a camera's square has at least
LINE = 18  # pixels of the line over it
QUALITIES = (85, 50, 20)  # of JPEG: the best that fits ...
LARGEST = 150_000  # ... bytes: what a socket takes in one piece
ALL = "front and wrist"  # the one image of a policy that is told of no cameras


@dataclass(frozen=True)
class Seen:
    """What a policy sees: of each of `cameras`, or of `ALL`, a square of so many pixels."""

    cameras: Sequence[str]
    size: int


def picture(cameras: Mapping[str, Camera], seen: Seen) -> Image.Image:
    """Return what a policy sees now, in its own pixels; then what the other cameras show.

    What a camera does not show is black, and says why.
    """
    squares = [_titled(name, _square(cameras, name, seen.size)) for name in seen.cameras]
    shown = POLICY_CAMERAS if ALL in seen.cameras else ()
    for name in cameras:
        if name not in (*seen.cameras, *shown):
            squares.append(_titled(f"{name} (not seen)", _square(cameras, name, SIDE)))
    row = Image.new("RGB", (sum(each.width for each in squares), max(e.height for e in squares)))
    left = 0
    for each in squares:
        row.paste(each, (left, 0))
        left += each.width
    return row


def _square(cameras: Mapping[str, Camera], name: str, size: int) -> Image.Image:
    try:
        shown = in_one(cameras, size=size) if name == ALL else square(cameras[name].read(), size)
    except CameraError as error:
        return _words(str(error), SIDE)
    return Image.fromarray(_enlarged(shown))


def _enlarged(image: UInt8[np.ndarray, "S S 3"]) -> UInt8[np.ndarray, "T T 3"]:
    """Whole pixels, so that one sees what the policy has."""
    times = max(1, SIDE // len(image))
    return image.repeat(times, axis=0).repeat(times, axis=1)


def _titled(title: str, image: Image.Image) -> Image.Image:
    titled = Image.new("RGB", (image.width, image.height + LINE))
    titled.paste(image, (0, LINE))
    ImageDraw.Draw(titled).text((4, 3), title, fill="white")
    return titled


def _words(text: str, side: int) -> Image.Image:
    image = Image.new("RGB", (side, side))
    words = text.split()
    lines = [" ".join(words[i : i + 5]) for i in range(0, len(words), 5)]
    ImageDraw.Draw(image).text((4, side // 3), "\n".join(lines), fill="white")
    return image


def jpeg(image: Image.Image, *, most: int = LARGEST) -> bytes:
    """Return a file of `most` bytes, if it can be had."""
    for quality in QUALITIES:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        if file.tell() <= most:
            break
    return file.getvalue()


class LiveView:
    """Sends what is seen to `path`, while somebody listens there."""

    def __init__(self, path: Path, cameras: Mapping[str, Camera]) -> None:
        self.seen = Seen(tuple(cameras), SIDE)  # by the policy that plays, or did last
        self._path = path
        self._cameras = cameras
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-view", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Show nothing any more."""
        self._over.set()
        self._thread.join(2.0)
        self._socket.close()

    def _run(self) -> None:
        while not self._over.wait(PERIOD):
            if self._path.exists():
                image = jpeg(picture(self._cameras, self.seen))
                with suppress(OSError):  # they have left, or do not read
                    self._socket.sendto(image, str(self._path))
