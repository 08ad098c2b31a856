"""What a person sees of the cameras while the arm moves."""

import io
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_real_env import CONFIG, FORTH, FakeCamera, env_of, soon
from test_settings import written

from irevla.errors import UserError
from irevla.robot import commands
from irevla.robot.cameras import Camera
from irevla.robot.live_page import Newest, Page
from irevla.robot.live_view import ALL, LARGEST, LINE, SIDE, LiveView, Seen, jpeg, picture
from irevla.robot.settings import read_settings
from irevla.robot.sockets import listening


class Counting(FakeCamera):
    """How often it was read."""

    reads = 0

    def read(self) -> np.ndarray:
        self.reads += 1
        return super().read()


class Noise(FakeCamera):
    """What JPEG can do least with."""

    def read(self) -> np.ndarray:
        noise: np.ndarray = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
        return noise


def cameras(**others: Camera) -> dict[str, Camera]:
    return {"front": FakeCamera(200), "wrist": FakeCamera(30), **others}


def below_titles(image: Image.Image) -> np.ndarray:
    return np.array(image)[LINE:]


def test_it_shows_the_policys_own_pixels_then_the_other_cameras() -> None:
    env, *_ = env_of()
    env.cell.cameras = cameras(side=Noise(0))
    image, _ = env.reset()
    shown = below_titles(picture(env.cell.cameras, Seen((ALL,), CONFIG.image_size)))
    times = SIDE // CONFIG.image_size
    assert shown.shape == (SIDE, 2 * SIDE, 3), "the one image, and the camera that is not in it"
    assert (shown[::times, :SIDE:times] == image).all()
    three = below_titles(picture(env.cell.cameras, Seen(("wrist",), 64)))
    assert three.shape == (SIDE, 3 * SIDE, 3)
    assert (three[:, :SIDE] == 30).all() and (three[:, SIDE : 2 * SIDE] == 200).all()


def test_a_camera_without_an_image_is_black_and_says_so() -> None:
    broken = FakeCamera(200)
    broken.broken = True
    shown = below_titles(picture({"front": broken, "wrist": FakeCamera(30)}, Seen(("front",), 64)))
    front = shown[:, :SIDE]
    assert not (front == 200).any() and front.max() > 200, "words on black"
    assert (shown[:, SIDE:] == 30).all()


def test_a_picture_fits_a_message() -> None:
    noisy = picture({name: Noise(0) for name in "abcd"}, Seen(tuple("abcd"), 256))
    assert len(jpeg(noisy, most=10**9)) > LARGEST >= len(jpeg(noisy))


@contextmanager
def serving(folder: Path) -> Iterator[Callable[[str], bytes]]:
    """A page, and how to ask it."""
    with closing(Newest(folder / "view")) as newest, Page("127.0.0.1", 0, newest) as page:
        thread = threading.Thread(target=page.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{page.server_port}"

        def ask(path: str) -> bytes:
            with urllib.request.urlopen(address + path, timeout=5.0) as answer:
                found: bytes = answer.read(200_000) if path != "/stream" else answer.read(4000)
            return found

        yield ask
        page.shutdown()
        thread.join(5.0)


def pixels(image: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(image)))


def test_a_page_shows_what_a_session_sends_and_nothing_old(tmp_path: Path) -> None:
    with serving(tmp_path) as ask:
        assert b"/stream" in ask("/")
        nothing = ask("/image.jpg")
        live = LiveView(tmp_path / "view", cameras())
        assert soon(lambda: ask("/image.jpg") != nothing)
        shown = pixels(ask("/image.jpg"))
        assert shown.shape == (SIDE + LINE, 2 * SIDE, 3)
        assert abs(int(shown[-5, 5, 0]) - 200) < 4 and abs(int(shown[-5, -5, 0]) - 30) < 4
        assert ask("/stream").startswith(b"--frame\r\nContent-Type: image/jpeg")
        live.close()
        assert soon(lambda: ask("/image.jpg") == nothing), "it looks like no present"


def test_where_nobody_watches_no_camera_is_read(tmp_path: Path) -> None:
    front = Counting(200)
    with closing(LiveView(tmp_path / "view", {"front": front, "wrist": FakeCamera(0)})):
        time.sleep(0.7)
        assert front.reads == 0


def test_who_watches_and_reads_nothing_keeps_nothing_waiting(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hung:
        hung.bind(str(tmp_path / "view"))
        front = Counting(200)
        live = LiveView(tmp_path / "view", {"front": front, "wrist": FakeCamera(0)})
        assert soon(lambda: front.reads > 2)
        began = time.monotonic()
        live.close()
        assert time.monotonic() - began < 1.0


def test_an_environment_says_what_its_policy_sees(tmp_path: Path) -> None:
    env, *_ = env_of()
    with closing(LiveView(tmp_path / "view", env.cell.cameras)) as live:
        env.cell.live = live
        env.reset()
        env.step(FORTH)
        assert live.seen == Seen((ALL,), CONFIG.image_size)


def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = read_settings(written(tmp_path, view=address))
        with pytest.raises(UserError, match="choose another `view`") as told:
            commands.view(settings)
    assert "\n" not in str(told.value) and not settings.live_view.exists()


def test_a_place_where_no_socket_can_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be made"):
        listening(tmp_path / ("long" * 40), timeout=0.1)


def test_who_listens_keeps_the_socket_until_they_end(tmp_path: Path) -> None:
    path = tmp_path / "view"
    with closing(listening(path, timeout=0.1)) as first:
        with pytest.raises(UserError, match=r"another process listens at .*view.*end it first"):
            listening(path, timeout=0.1)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"still heard", str(path))
        assert first.recv(100) == b"still heard"
    with closing(listening(path, timeout=0.1)):  # its file was left, as by one that was killed
        assert path.is_socket()
