"""One task of a real arm as a gymnasium environment: the interface, the actions and the pictures of
`panda-sim`."""

from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from irevla.config import EnvConfig
from irevla.envs.drawn import DrawnEnv
from irevla.envs.panda.suite import ACTION_DIM, REACH, TURN
from irevla.envs.panda.tasks import SPECS
from irevla.envs.real.arm import PERSON, ArmFault, ArmStopped
from irevla.envs.real.cameras import CameraError, compose
from irevla.envs.real.connect import Cell
from irevla.envs.real.person import BEAT, SILENCE
from irevla.envs.real.pose import Pose
from irevla.envs.real.recorder import Recorder
from irevla.envs.real.suite import HZ
from irevla.errors import UserError, unknown

LIFT = 0.05  # m that the hand rises before it goes to its start, so that it drags nothing along


class PandaRealEnv(DrawnEnv):
    """One task. Observation: `uint8[S, S, 3]`, the front view with the wrist's in its top left
    corner. Action, in [-1, 1]: `float32[7]`, displacement (4 cm) and turn (0.25 rad) along and
    around the axes of the arm's base, and the gripper (positive closes). A decision is 0.1 s.

    The reward is 1 where the judge says that the task is done, and the episode terminates; it is
    truncated where the judge says that it has failed, or after `horizon` decisions. A person who
    takes over replaces the policy's action; `info["action"]` is what was done, `info["person"]`
    whether by them. Raises `ArmStopped`, for good, where the safety layer stops the arm. Seeds
    settle nothing: a person puts the things back.
    """

    def __init__(self, task: str, config: EnvConfig | None = None, *, cell: Cell) -> None:
        if task not in SPECS:
            raise unknown("task of panda", task, SPECS)
        config = config or EnvConfig()
        ticks = HZ * config.action_repeat
        super().__init__(
            SPECS[task].task,
            config,
            action_dim=ACTION_DIM,
            control_hz=ticks,
            render_mode="rgb_array",
        )
        self.cell = cell
        self._returned = cell.clock.now()  # when the last decision ended
        self._recorder = Recorder(self.task, cell.demonstrations)
        self._seen = np.zeros((config.image_size, config.image_size, 3), np.uint8)
        self._shown: np.ndarray | None = None  # by a person, for the next step

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Open the fingers, rise, go to the start, and wait until a person says that things are in
        place."""
        super().reset(seed=seed)
        cell, arm = self.cell, self.cell.arm
        if cell.player not in (None, self):
            raise UserError("there is one arm: --env.workers 1 --env.envs-per-worker 1")
        cell.player = self
        self._await_person()
        arm.begin_episode()
        arm.recover()
        arm.grip(shut=False)
        try:
            self._go_home()
        except ArmFault as fault:
            arm.stop(f"{fault}, on the way to its start")
            raise ArmStopped(
                f"the arm is stopped ({arm.stopped}): look at it, then `irevla arm release`"
            ) from fault
        arm.hold()
        self._ask(f"{self.task.name}: put things in place for {self.task.instruction!r}")
        self._require_person()
        self._decisions, self._returned = 0, cell.clock.now()
        self._recorder.begin()
        self._seen = self._observe()
        return self._seen, {"success": False}

    def step(
        self, action: Float32[np.ndarray, " A"]
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One decision. The picture is taken just so long before the next that the policy's
        thinking fits between."""
        cell, began = self.cell, self.cell.clock.now()
        self._require_person()
        # a demonstration is `action` already, and collected where it is asked for
        shown, self._shown = self._shown, None
        taken_over = cell.person.action() if shown is None else None
        if cell.arm.who == PERSON and shown is None and taken_over is None:
            cell.arm.hold()
            raise UserError(
                "a person is authorised to move the arm, and this is a policy: name its hash instead"
            )
        try:
            done = self._act(np.asarray(action if taken_over is None else taken_over, np.float32))
        except ArmFault as fault:
            return self._break_off(str(fault))
        period, thinking = cell.arm.limits.period, began - self._returned
        cell.clock.sleep(max(period - thinking, period / 2) - (cell.clock.now() - began))
        self._recorder.add(self._seen, done, person=taken_over is not None)
        self._seen = self._observe()
        verdict = cell.judge.judge(self._seen, self.task.instruction)
        self._decisions += 1
        success, ended = verdict is True, verdict is False or self._decisions >= self.config.horizon
        if success or ended:
            self._end(success=success)
        self._returned = cell.clock.now()
        info = {"success": success, "action": done, "person": taken_over is not None}
        return self._seen, float(success), success, ended and not success, info

    def expert_action(self) -> Float32[np.ndarray, " A"]:
        """The person's action, which `irevla collect panda` records. Without one the arm stands
        still."""
        action = self.cell.person.action()
        still = np.zeros(ACTION_DIM, np.float32)
        still[6] = self._recorder.grip  # the fingers stay as they are
        self._shown = still if action is None else action
        return self._shown

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """What both cameras show now."""
        try:
            return compose(self.cell.front.read(), self.cell.wrist.read(), size=size)
        except CameraError as error:
            self.cell.arm.stop(str(error))
            raise

    def close(self) -> None:
        """Hold the arm; the cell stays open, as other tasks share it."""
        if self.cell.player is self:
            self.cell.player = None
            self.cell.arm.hold()

    def _act(self, action: Float32[np.ndarray, " A"]) -> Float32[np.ndarray, " A"]:
        """Clip (which passes NaN: the arm refuses that), move, and return what was asked for."""
        clipped: np.ndarray = np.clip(action, -1.0, 1.0)
        motion = clipped.astype(np.float64)
        self.cell.arm.step(motion[:3] * REACH, motion[3:6] * TURN, shut=bool(motion[6] > 0))
        return clipped

    def _break_off(self, fault: str) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The arm has stopped itself: the episode is over, and the next reset may clear the
        fault."""
        self._end(success=False)
        return self._seen, 0.0, False, True, {"success": False, "fault": fault}

    def _end(self, *, success: bool) -> None:
        self.cell.arm.hold()
        self.cell.player = None
        self._recorder.end(success=success)

    def _go_home(self) -> None:
        arm, home = self.cell.arm, self.cell.home
        now, low, high = arm.state().pose, np.array(arm.limits.low), np.array(arm.limits.high)
        above = np.minimum(np.maximum(now.position + np.array([0.0, 0.0, LIFT]), low), high)
        above[2] = max(above[2], min(home.position[2], high[2]))
        arm.approach(Pose(above, now.quaternion))
        arm.approach(home)

    def _ask(self, request: str) -> None:
        patience = 0.8 * self.config.timeout  # the worker would be taken for hung
        if not self.cell.person.wait_ready(request, patience=patience):
            raise UserError(
                f"nobody said within {patience:.0f} s that things are in place: try a longer --env.timeout"
            )

    def _observe(self) -> np.ndarray:
        return self.render()  # whatever `draw` says: an arm does not move unseen

    def _await_person(self) -> None:
        """Their sign of life comes now and then, and the socket for it may have been opened only
        now."""
        end = self.cell.clock.now() + SILENCE
        while not self.cell.person.there() and self.cell.clock.now() < end:
            self.cell.clock.sleep(BEAT / 3)
        self._require_person()

    def _require_person(self) -> None:
        if not self.cell.person.there():
            self.cell.arm.hold()
            raise UserError("nobody watches the arm: run `irevla arm keys` in a terminal beside it")
