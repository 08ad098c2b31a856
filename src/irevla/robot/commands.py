"""`irevla arm`, what a person does at the arm without a policy, and `irevla classifier`."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from irevla.envs.suite import PERSON
from irevla.errors import UserError, unknown
from irevla.robot import gamepad
from irevla.robot.cameras import open_camera
from irevla.robot.cell import open_arm, open_cell
from irevla.robot.console import HELP, keyboard, send_keys
from irevla.robot.console import show as show_line
from irevla.robot.driver import DriverError
from irevla.robot.flight import flights, read_flight, told
from irevla.robot.gamepad import Gamepad
from irevla.robot.label import record as record_images
from irevla.robot.live_page import Newest, Page
from irevla.robot.live_view import ALL, Seen, picture
from irevla.robot.safe_arm import ArmFault, SafeArm
from irevla.robot.settings import Settings, read_settings
from irevla.robot.stop_latch import Session, StopLatch
from irevla.robot.teleop import PRESSED_STOP
from irevla.robot.view import check_view, keep_view

RECORDING = (
    "drive with the keys; y takes an image of success, n one of failure, held they go on; Ctrl-C "
    "here leaves"
)
SHOWN = 512  # side of the image that `show` writes, pixels


def keys(settings: Settings) -> None:
    """Be the person who watches: stop, answer, take over."""
    pad = Gamepad() if settings.teleop == "gamepad" else None
    settings.keys.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    read, give_back = keyboard()
    print(HELP)
    if pad is not None:
        print(gamepad.HELP)
    try:
        send_keys(
            settings.keys,
            read,
            on_stop=lambda: latch_stop(settings),
            pad=pad,
            show=show_line,
            stopped=lambda: StopLatch(settings.folder).reason,
        )
    except KeyboardInterrupt:
        pass
    finally:
        give_back()


def latch_stop(settings: Settings) -> None:
    """Keep the arm stopped, whether or not anybody listened: between two sessions nobody does."""
    stop_latch = StopLatch(settings.folder)
    stop_latch.set(PRESSED_STOP)
    try:
        stop_latch.keep()
    except OSError as error:
        print(f"the stop could not be written down ({error.strerror}): PRESS THE EMERGENCY STOP")
        return
    print("the arm is stopped, until `irevla arm release`")


def show(settings: Settings) -> None:
    """Say where the arm is and why it is stopped, and write what the policy would see.

    Nothing moves.
    """
    with _connected(settings) as arm:
        _describe(settings, arm)
    path = settings.path.with_suffix(".png")
    with contextlib.ExitStack() as opened:
        cameras = {}
        for name, chosen in settings.cameras.items():
            cameras[name] = open_camera(name, chosen)
            opened.callback(cameras[name].close)
        picture(cameras, Seen((ALL, *cameras), SHOWN)).save(path)
    print(f"what a policy sees: {path}")


def _describe(settings: Settings, arm: SafeArm) -> None:
    try:
        state = arm.look()
    except DriverError as error:
        raise UserError(f"the arm's state cannot be read: {error}") from error
    place = np.round(state.pose.position, 3).tolist()
    tilt = np.degrees(state.pose.tilt)
    home = settings.home.position.tolist()
    limits = settings.limits
    fault = state.fault or "none"
    stopped = arm.stopped or "no"
    print(f"hand at {place} m, fingers {tilt:.0f} degrees from straight down")
    print(f"home at {home}, box {limits.low} to {limits.high}")
    frame = state.frame.position.round(4).tolist()
    print(f"its end effector: {frame} m from the flange, turned by {state.frame.yaw:.3f} rad")
    if state.width is not None:
        print(f"fingers {1000 * state.width:.0f} mm apart")
    print(f"fault: {fault}; stopped: {stopped}; dry run: {settings.dry_run}")


def view(settings: Settings) -> None:
    """Serve a page that shows what the policy sees, whenever a session is open."""
    host, port = settings.page
    with (
        contextlib.closing(Newest(settings.live_view)) as newest,
        Page(host, port, newest) as page,
        contextlib.suppress(KeyboardInterrupt),
    ):
        print(
            f"what the policy sees: http://{host}:{port} (from another machine: ssh -L "
            f"{port}:127.0.0.1:{port} THIS ONE, then http://127.0.0.1:{port}); Ctrl-C leaves",
            flush=True,
        )
        page.serve_forever()


def home(settings: Settings) -> None:
    """Move the arm slowly to its start, after a person has agreed: the first motion to try."""
    with contextlib.closing(open_cell(settings, None)) as cell:
        arm = cell.arm
        cell.await_person()
        begin = np.round(arm.state().pose.position, 3).tolist()
        end = settings.home.position.tolist()
        print(f"from {begin} to {end}, at {settings.limits.pace} m/s")
        if not _agreed("Is the way free, and the emergency stop in your hand? Type yes: "):
            print("nothing moves")
            return
        arm.authorize(PERSON)
        cell.teleop.tell("the arm goes to its start")
        try:
            arm.approach(settings.home)
        except ArmFault as fault:
            raise UserError(
                f"the arm stopped itself: {fault}; look at it, and clear the fault in Desk"
            ) from fault
        print("nothing has moved" if settings.dry_run else "it is there")


def release(settings: Settings) -> None:
    """Let a stopped arm move again, after a person has looked at it."""
    with contextlib.closing(Session(settings.folder)) as session:
        stop_latch = session.stop_latch
        asked = stop_latch.record
        if stop_latch.reason and not _agreed(_why(stop_latch)):
            print("still stopped")
            return
        if stop_latch.record != asked:
            raise UserError("the arm was stopped again meanwhile: look at it, and release it then")
        stop_latch.release()
        print("the arm is not stopped")


def log(settings: Settings, file: Path | None = None) -> None:
    """Print what a session's flight recorder holds, the newest one's where none is named."""
    found = flights(settings.flights)
    if file is None and not found:
        raise UserError(f"no session has left anything in {settings.flights}")
    path = file or found[-1]
    print(path)
    for line in read_flight(path):
        print(told(line))


def _why(stop_latch: StopLatch) -> str:
    return f"stopped: {stop_latch.reason}. Have you looked at the arm? Type yes: "


def _agreed(question: str) -> bool:
    return input(question).strip() == "yes"


def record(settings: Settings, folder: Path | None = None) -> None:
    """Take labelled images for a classifier into `folder`, while a person drives the arm."""
    if folder is None:
        raise UserError("where to? irevla arm record FOLDER")
    check_view(folder, settings.detector.view, missing=None)  # before anything is opened
    by_key = dataclasses.replace(settings, success_detector="key")
    with contextlib.closing(open_cell(by_key, None)) as cell:
        cell.await_person()
        print(RECORDING)
        cell.arm.authorize(PERSON)
        with contextlib.suppress(KeyboardInterrupt):
            record_images(cell, folder, settings.detector)


WORDS: dict[str, Callable[[Settings], None]] = {
    "keys": keys,
    "show": show,
    "view": view,
    "home": home,
    "release": release,
}
WITH_PATH: dict[str, Callable[[Settings, Path | None], None]] = {"log": log, "record": record}


def arm_command(word: str, path: Path, place: Path | None = None) -> None:
    """Do one of `WORDS`, or of `WITH_PATH` at `place`, with the settings at `path`.

    Raises `UserError`.
    """
    if word not in WORDS and word not in WITH_PATH:
        raise unknown("arm command", word, [*WORDS, *WITH_PATH])
    settings = read_settings(path)
    if word in WITH_PATH:
        WITH_PATH[word](settings, place)
        return
    if place is not None:
        raise UserError(f"irevla arm {word} takes no file: leave {place} out")
    WORDS[word](settings)


@contextlib.contextmanager
def _connected(settings: Settings) -> Iterator[SafeArm]:
    arm = open_arm(settings)
    try:
        yield arm
    finally:
        arm.close()


def classifier_command(
    folder: Path, *, policy: Path, instruction: str, out: Path, steps: int
) -> str:
    """Train a classifier from labelled images, write it to `out`, and return what came of it.

    Raises `UserError` where `out` is there already, and where the images are too few.
    """
    from irevla.models.policy import VLAPolicy
    from irevla.progress import bar
    from irevla.robot.classifier import TRAINING, train_classifier

    if out.exists():  # perhaps the policy itself, which it would replace
        raise UserError(f"{out} is there already; choose another --out")
    config = dataclasses.replace(TRAINING, steps=steps)
    start = VLAPolicy.from_pretrained(policy)
    with bar("Classifier", steps) as advance:
        trained, grade = train_classifier(
            folder, instruction, start, config, on_step=lambda done: advance(done, "")
        )
    trained.save_pretrained(out, card=f"# Is it done? {instruction}\n\n{grade}\n")
    keep_view(folder, out)
    return f"{grade}; written to {out}"
