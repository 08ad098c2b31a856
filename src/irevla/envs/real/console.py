"""`irevla arm`: what a person does at the arm without a policy."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from irevla.envs.real.arm import PERSON, ArmFault, SafeArm
from irevla.envs.real.cameras import compose, open_camera
from irevla.envs.real.connect import open_arm
from irevla.envs.real.driver import DriverError
from irevla.envs.real.latch import Latch
from irevla.envs.real.person import HELP, keyboard, send_keys
from irevla.envs.real.settings import Settings, read_settings
from irevla.errors import UserError, unknown

PICTURE = 512  # side of the picture that `show` writes, pixels


def keys(settings: Settings) -> None:
    """Be the person who watches: stop, answer, take over."""
    read, give_back = keyboard()
    print(HELP)
    try:
        send_keys(settings.keys, read)
    except KeyboardInterrupt:
        pass
    finally:
        give_back()


def show(settings: Settings) -> None:
    """Say where the arm is and why it is stopped, and write what the policy would see; nothing
    moves."""
    with _connected(settings) as arm:
        try:
            state = arm.look()
        except DriverError as error:
            raise UserError(f"the arm's state cannot be read: {error}") from error
        place, tilt = np.round(state.pose.position, 3).tolist(), np.degrees(state.pose.tilt)
        print(f"hand at {place} m, fingers {tilt:.0f} degrees from straight down")
        print(
            f"home at {settings.home.position.tolist()}, box {settings.limits.low} to {settings.limits.high}"
        )
        print(
            f"fault: {state.fault or 'none'}; stopped: {arm.stopped or 'no'}; dry run: {settings.dry_run}"
        )
    pictures = []
    for name, camera in (("front", settings.front), ("wrist", settings.wrist)):
        opened = open_camera(name, camera)
        pictures.append(opened.read())
        opened.close()
    picture = settings.path.with_suffix(".png")
    Image.fromarray(compose(*pictures, size=PICTURE)).save(picture)
    print(f"what a policy sees: {picture}")


def home(settings: Settings) -> None:
    """Move the arm slowly to its start, after a person has agreed: the first motion to try."""
    with _connected(settings) as arm:
        begin, end = (
            np.round(arm.state().pose.position, 3).tolist(),
            settings.home.position.tolist(),
        )
        print(f"from {begin} to {end}, at {settings.limits.pace} m/s")
        if (
            input("Is the way free, and the emergency stop in your hand? Type yes: ").strip()
            != "yes"
        ):
            print("nothing moves")
            return
        arm.authorise(PERSON)
        try:
            arm.approach(settings.home)
        except ArmFault as fault:
            raise UserError(
                f"the arm stopped itself: {fault}; look at it, and clear the fault in Desk"
            ) from fault


def release(settings: Settings) -> None:
    """Let a stopped arm move again, after a person has looked at it."""
    latch = Latch(settings.latch)
    reason = latch.reason
    if (
        reason
        and input(f"stopped: {reason}. Have you looked at the arm? Type yes: ").strip() == "yes"
    ):
        latch.release()
    latch.close()
    print("still stopped" if latch.reason else "the arm is not stopped")


WORDS: dict[str, Callable[[Settings], None]] = {
    "keys": keys,
    "show": show,
    "home": home,
    "release": release,
}


def arm_command(word: str, path: Path) -> None:
    """One of `WORDS`, with the settings at `path`. Raises `UserError`."""
    if word not in WORDS:
        raise unknown("arm command", word, WORDS)
    WORDS[word](read_settings(path))


@contextlib.contextmanager
def _connected(settings: Settings) -> Iterator[SafeArm]:
    arm = open_arm(settings)
    try:
        yield arm
    finally:
        arm.close()
