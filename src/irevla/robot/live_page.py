"""`irevla arm view`: a page that shows what a session sends of its cameras, and a picture at
/image.jpg."""

import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image, ImageDraw

from irevla.errors import UserError
from irevla.robot.live_view import LARGEST, SIDE, jpeg
from irevla.robot.sockets import listening

SILENCE = 1.0  # s after which what came last is of the past
LISTEN = 0.2  # s between two looks at whether it is over
NOTHING = "nothing comes: no session is open (`irevla arm show` writes one picture)"
PAGE = b"""<!doctype html><title>irevla arm view</title>
<body style="margin:0;background:black">
<img src="/stream" style="width:100vw;height:100vh;object-fit:contain;image-rendering:pixelated">
"""


class Newest:
    """The newest image that came to the socket at `path`; after `SILENCE` s, that none does."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = path
        self._socket = listening(path, timeout=LISTEN)
        self._image = b""
        self._came = -float("inf")
        self._nothing = jpeg(_told(NOTHING))
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-page", daemon=True)
        self._thread.start()

    def wait(self) -> bytes:
        """Return the next image, or, where none comes, a picture that says so."""
        with self._changed:
            if self._changed.wait(SILENCE):
                return self._image
        return self.now()

    def now(self) -> bytes:
        """Return the newest one."""
        return self._image if time.monotonic() - self._came < SILENCE else self._nothing

    def close(self) -> None:
        """Listen no more."""
        self._over.set()
        self._thread.join(2.0)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                image = self._socket.recv(4 * LARGEST)
                with self._changed:
                    self._image = image
                    self._came = time.monotonic()
                    self._changed.notify_all()


class Page(ThreadingHTTPServer):
    """Serves them at `host`:`port`. Raises `UserError` where it cannot."""

    daemon_threads = True

    def __init__(self, host: str, port: int, newest: Newest) -> None:
        self.newest = newest
        try:
            super().__init__((host, port), _Answer)
        except OSError as error:
            raise UserError(
                f"no page can be served at {host}:{port} ({error.strerror}): choose another `view` "
                "in the settings"
            ) from error

    def handle_error(self, request: object, client_address: object) -> None:
        """The browser has left."""


class _Answer(BaseHTTPRequestHandler):
    server: Page

    def do_GET(self) -> None:
        if self.path == "/":
            self._send(PAGE, "text/html")
        elif self.path == "/image.jpg":
            self._send(self.server.newest.now(), "image/jpeg")
        elif self.path == "/stream":
            self._stream()
        else:
            self.send_error(404)

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def _stream(self) -> None:
        """Images without end, as network cameras send them (MJPEG)."""
        self._send(b"", "multipart/x-mixed-replace; boundary=frame")
        while True:
            image = self.server.newest.wait()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
            self.wfile.write(head.encode() + image + b"\r\n")

    def log_message(self, *words: object) -> None:
        """The terminal stays quiet."""


def _told(text: str) -> Image.Image:
    image = Image.new("RGB", (2 * SIDE, SIDE))
    ImageDraw.Draw(image).text((8, SIDE // 2), text, fill="white")
    return image
