"""Labelled images, from which a classifier learns: taken while a person drives the arm."""

import time
from pathlib import Path

import numpy as np
from PIL import Image

from irevla.envs.panda.tasks import REACH, TURN
from irevla.robot.cameras import view_of
from irevla.robot.cell import Cell
from irevla.robot.settings import DetectorSettings
from irevla.robot.view import check_view, write_view
from irevla.storage.disk import writing

SIZE = 256  # side of the images, pixels: more than any classifier sees


def record(cell: Cell, folder: Path, detector: DetectorSettings) -> None:
    """Let a person drive, and take an image into FOLDER/success or FOLDER/failure at each of their
    verdicts, until they interrupt.

    Raises `UserError` where the images of `folder` are of another view, `ArmStopped`.
    """
    check_view(folder, detector.view, missing=None)
    folder.mkdir(parents=True, exist_ok=True)
    write_view(folder, detector.view)
    taken = {"success": 0, "failure": 0}
    arm = cell.arm
    arm.begin_episode()
    arm.recover()
    shut = False
    cell.teleop.tell("you drive: y is an image of success, n one of failure")
    while True:
        began = cell.clock.now()
        action = cell.teleop.action(shut=shut)
        if action is not None:
            shut = bool(action[6] > 0)
            motion = action.astype(np.float64)
            arm.step(motion[:3] * REACH, motion[3:6] * TURN, shut=shut, by_hand=True)
        verdict = cell.teleop.verdict()
        if verdict is not None:
            label = "success" if verdict else "failure"
            image = view_of(detector, cell.cameras, size=SIZE)
            _keep(folder / label, image)
            taken[label] += 1
            arm.say(f"{taken['success']} of success, {taken['failure']} of failure")
        cell.clock.sleep(arm.limits.period - (cell.clock.now() - began))


def _keep(folder: Path, image: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    with writing(folder / f"{time.time_ns()}.png") as aside:
        Image.fromarray(image).save(aside, "PNG")
