"""One task of a real arm as a gymnasium environment: the interface, the actions and the images of
`panda-sim`."""

from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float32, UInt8

from irevla.config import EnvConfig
from irevla.envs.arm_state import STATE
from irevla.envs.panda.tasks import ACTION_DIM, REACH, TURN
from irevla.envs.pixel_env import PixelEnv
from irevla.envs.suite import PERSON
from irevla.errors import UserError, unknown
from irevla.robot.brake import ArmStopped
from irevla.robot.cameras import CameraError, compose, square
from irevla.robot.cell import Cell
from irevla.robot.driver import DriverError
from irevla.robot.live_view import ALL, Seen
from irevla.robot.pose import Pose, turn_between
from irevla.robot.recorder import Recorder
from irevla.robot.safe_arm import ArmFault
from irevla.robot.settings import HZ, POLICY_CAMERAS

TO_ANSWER = 0.4  # share of a worker's time to answer that a person has, each of two times
SILENT = 10.0  # s without a decision after which an episode is over: people may have come near
SLOW = 1.2  # periods that a policy may think, before a person is told
LIFT = 0.05  # m that the hand rises before it goes to its start, so that it drags nothing along


class PandaRealEnv(PixelEnv):
    """One task. Observation: `uint8[S, S, 3]`, the front view with the wrist's in its top left
    corner, or the views that `env.cameras` names, one below the other. Action, in [-1, 1]:
    `float32[7]`, displacement (4 cm) and turn (0.25 rad) along and around the axes of the arm's
    base, and the gripper (positive closes). A decision is 0.1 s.

    The reward is 1 where the success detector says that the task is done, less a small cost where
    a policy has turned the fingers round. There the episode
    terminates, and where it says that the task has failed: nothing is to be had any more. After
    `horizon` decisions it is truncated, and where a person takes back that it is done. In a dry run
    nothing succeeds, as nothing moves. A person who takes over replaces the policy's action:
    `info["person"]` says whether one did. `info["action"]` is what the hand did between the two
    images, not what was asked of it. Raises `ArmStopped`, for good, where the safety layer stops
    the arm. Seeds settle nothing: a person
    puts the things back.
    """

    def __init__(self, task: str, config: EnvConfig | None = None, *, cell: Cell) -> None:
        tasks = {each.name: each for each in cell.tasks}
        if task not in tasks:
            raise unknown("task of panda", task, tasks)
        config = config or EnvConfig()
        ticks = HZ * config.action_repeat
        super().__init__(
            tasks[task],
            config,
            action_dim=ACTION_DIM,
            control_hz=ticks,
            render_mode="rgb_array",
        )
        self.cell = cell
        cell.envs.add(self)
        self._returned = cell.clock.now()  # when the last decision ended
        self._late = 0  # decisions of this episode that took too long ...
        self._slowest = 0.0  # ... s
        self._holds_before = 0  # those of the arm, before this episode
        self._recorder = Recorder(self.task, cell.demonstrations, cameras=config.cameras)
        self._image = np.zeros(config.image_shape, np.uint8)  # the last one
        self._pose: Pose = cell.home  # where the hand was then ...
        self._state = np.zeros(len(STATE), np.float32)  # ... and what the robot said of itself
        self._demonstrated: np.ndarray | None = None  # by a person, for the next step

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Wait until a person says that they are out of the way, open the fingers, rise and go to
        the start; then wait until they say that things are in place.

        Where the partner of this task has just succeeded, things are in place: they are asked once,
        and the fingers stay as they are.
        """
        gym.Env.reset(self, seed=seed)  # a person sets the scene
        cell = self.cell
        arm = cell.arm
        if cell.player not in (None, self):
            raise UserError("there is one arm: --env.workers 1 --env.envs-per-worker 1")
        cell.player = self
        cell.show(Seen(self.config.cameras or (ALL,), self.config.image_size))
        goes_on = cell.shows != "" and cell.shows == cell.partners.get(self.task.name)
        cell.shows = ""
        cell.await_person()
        self._ask_to_leave(goes_on=goes_on)
        arm.begin_episode()
        arm.recover()
        try:
            if not goes_on:
                self._open_fingers()
            self._go_home()
        except ArmFault as fault:
            arm.stop(f"{fault}, on the way to its start")
            raise ArmStopped(
                f"the arm is stopped ({arm.stopped}): look at it, then `irevla arm release`"
            ) from fault
        arm.hold()
        if not goes_on:
            self._ask_for_the_scene()
        self._decisions = 0
        self._returned = cell.clock.now()
        self._late = 0
        self._slowest = 0.0
        self._holds_before = arm.late_holds
        self._recorder.begin(shut=arm.shut)
        cell.success_detector.begin()
        arm.flight.note("episode", task=self.task.name)
        self._look()
        if self.config.state and not np.isfinite(self._state).all():
            raise UserError(
                "this arm does not say how far its fingers are open, so a policy cannot be told: "
                "--env.no-state, with a policy that was trained so"
            )
        return self._image, {"success": False, "state": self._state}

    def step(
        self, action: Float32[np.ndarray, " A"]
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Carry out one decision; where the last one is long past, end the episode instead, so that
        a person is asked before the arm moves again.

        The image is taken just so long before the next one that the policy's thinking fits between.
        """
        cell = self.cell
        began = cell.clock.now()
        silent = began - self._returned
        if silent > SILENT:
            fault = f"no decision came for {silent:.0f} s"
            cell.arm.say(f"{fault}, so this episode is over: nothing moves before you say so")
            return self._break_off(fault, person=False)
        chosen, person = self._chosen(np.asarray(action, np.float32))
        by_hand = person or cell.arm.who == PERSON
        cell.teleop.tell(f"{self.task.name}: {'you drive' if by_hand else 'the policy acts'}")
        try:
            turned_round = self._act(chosen, by_hand=by_hand)
            self._wait(began)
            done = self._done(cell.arm.state().pose)
        except ArmFault as fault:
            return self._break_off(str(fault), person=person)
        self._recorder.add(self._image, done, person=person, state=self._state)
        self._look()
        self._returned = cell.clock.now()  # the detector's time is the policy's
        verdict = cell.success_detector.detect(self._image, self.task.instruction)
        self._decisions += 1
        self._note(chosen, done, person=person, verdict=verdict)
        success = verdict is True and not cell.arm.dry_run
        vetoed = success and self._vetoed()
        success = success and not vetoed
        terminated = verdict is not None and not vetoed
        truncated = not terminated and (vetoed or self._decisions >= self.config.horizon)
        if terminated or truncated:
            self._end(success=success)
        cost = cell.gripper_cost if turned_round and not person else 0.0
        info = {"success": success, "action": done, "person": person, "vetoed": vetoed}
        info["state"] = self._state
        return self._image, float(success) - cost, terminated, truncated, info

    def expert_action(self) -> Float32[np.ndarray, " A"]:
        """Return the person's action, which `irevla collect panda` records.

        Without one the arm stands still.
        """
        action = self._taken_over()
        if action is None:
            action = np.zeros(ACTION_DIM, np.float32)
            action[6] = self._recorder.gripper  # the fingers stay as they are
        self._demonstrated = action
        return action

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """Return what both cameras show now."""
        return compose(*(self._read(camera) for camera in POLICY_CAMERAS), size=size)

    def _view(self, camera: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
        return square(self._read(camera), size)

    def _read(self, camera: str) -> UInt8[np.ndarray, "H W 3"]:
        """Return the newest image of one camera; where there is none, the arm is stopped."""
        try:
            return self.cell.cameras[camera].read()
        except CameraError as error:
            self.cell.arm.stop(str(error))
            raise

    def _look(self) -> None:
        """See the scene, and be told of the robot: what the next decision is made on."""
        self._image = self._observe()
        self._pose = self._seen_pose()
        self._state = self._robot_state()

    def close(self) -> None:
        """Hold the arm; the cell stays open, as other tasks share it."""
        self.cell.leave(self)

    def _taken_over(self) -> Float32[np.ndarray, " A"] | None:
        return self.cell.teleop.action(shut=self._recorder.gripper > 0)

    def _chosen(self, action: Float32[np.ndarray, " A"]) -> tuple[Float32[np.ndarray, " A"], bool]:
        """Return what is to be done, and whether a person took over from the policy.

        What a person demonstrates is `action` already. Holds the arm and raises `UserError` where a
        policy would act in a person's name.
        """
        demonstrated = self._demonstrated
        self._demonstrated = None
        if demonstrated is not None:
            return action, False
        taken_over = self._taken_over()
        if taken_over is not None:
            return taken_over, True
        if self.cell.arm.who == PERSON:
            self.cell.arm.hold()
            raise UserError(
                "a person is authorised to move the arm, and this is a policy: name its hash "
                "instead"
            )
        return action, False

    def _wait(self, began: float) -> None:
        """Wait for the end of the decision's period, less what the policy needs to think."""
        period = self.cell.arm.limits.period
        thinking = began - self._returned
        self._slowest = max(self._slowest, thinking)
        self._late += thinking > SLOW * period
        spent = self.cell.clock.now() - began
        self.cell.clock.sleep(max(period - thinking, period / 2) - spent)

    def _act(self, action: Float32[np.ndarray, " A"], *, by_hand: bool) -> bool:
        """Clip (which passes NaN: the arm refuses that), and move; return whether the fingers were
        turned round."""
        arm = self.cell.arm
        before = arm.shut
        motion = np.clip(action, -1.0, 1.0).astype(np.float64)
        shut = bool(motion[6] > 0)
        arm.step(motion[:3] * REACH, motion[3:6] * TURN, shut=shut, by_hand=by_hand)
        return arm.shut != before

    def _done(self, pose: Pose) -> Float32[np.ndarray, " A"]:
        """Return what was done since the last image, as an action.

        The arm lags, its limits shorten: who learnt from what was asked would learn of motions that
        never were.
        """
        before = self._pose
        self._pose = pose
        way = (pose.position - before.position) / REACH
        turn = turn_between(before.quaternion, pose.quaternion) / TURN
        shut = 1.0 if self.cell.arm.shut else -1.0
        action: np.ndarray = np.clip([*way, *turn, shut], -1.0, 1.0)
        return action.astype(np.float32)

    def _vetoed(self) -> bool:
        """Whether a person takes back, while the arm stands, that the task is done."""
        cell = self.cell
        cell.arm.hold()
        if not cell.veto:
            return False
        vetoed = cell.teleop.wait_veto(f"{self.task.name} counts as done", patience=cell.veto)
        if vetoed:
            cell.success_detector.vetoed()
            cell.arm.flight.note("veto")
        return vetoed

    def _robot_state(self) -> Float32[np.ndarray, " S"]:
        """As `STATE` names it; the opening is not a number where the arm does not tell it."""
        try:
            width = self.cell.arm.look().width
        except DriverError:
            width = float(self._state[-1])
        told = [*self._pose.position, *self._pose.sides, np.nan if width is None else width]
        return np.array(told, np.float32)

    def _seen_pose(self) -> Pose:
        """Where the hand is, also of an arm with a fault; where it cannot be told, where it was."""
        try:
            pose = self.cell.arm.look().pose
        except DriverError:  # the next command stops the arm for it
            return self._pose
        return pose if pose.sound else self._pose

    def _note(
        self,
        asked: Float32[np.ndarray, " A"],
        done: Float32[np.ndarray, " A"],
        *,
        person: bool,
        verdict: bool | None,
    ) -> None:
        facts = {} if verdict is None else {"verdict": verdict}
        self.cell.arm.flight.note(
            "decision", number=self._decisions, asked=asked, done=done, person=person, **facts
        )

    def _break_off(
        self, fault: str, *, person: bool
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """End the episode, as the arm has stopped itself; the next reset may clear the fault."""
        done = self._done(self._seen_pose())
        self._end(success=False)
        info = {"success": False, "fault": fault, "action": done, "person": person}
        info["state"] = self._state
        return self._image, 0.0, False, True, info

    def _end(self, *, success: bool) -> None:
        arm = self.cell.arm
        arm.hold()
        self.cell.shows = self.task.name if success else ""
        self.cell.teleop.tell(f"{self.task.name}: {'done' if success else 'over'}")
        self.cell.player = None
        if self._late:
            self._tell_late()
        self._recorder.end(success=success)

    def _tell_late(self) -> None:
        arm = self.cell.arm
        patience = 1000 * SLOW * arm.limits.period
        held = arm.late_holds - self._holds_before
        arm.say(
            f"{self._late} of {self._decisions} decisions took more than {patience:.0f} ms, the "
            f"slowest {1000 * self._slowest:.0f}, and the arm held {held} times: use a smaller "
            "policy, a faster machine, or a better link where a server encodes"
        )

    def _open_fingers(self) -> None:
        cell = self.cell
        if cell.homing:
            cell.arm.home_gripper()
            cell.homing = False
        cell.arm.set_gripper(shut=False)

    def _go_home(self) -> None:
        arm = self.cell.arm
        home = self.cell.homes.get(self.task.name, self.cell.home)
        start = home.start(self.np_random, arm.limits)
        now = arm.state().pose
        lifted = now.position + np.array([0.0, 0.0, LIFT])
        above = np.minimum(np.maximum(lifted, arm.limits.low), arm.limits.high)
        above[2] = max(above[2], min(start.position[2], arm.limits.high[2]))
        arm.approach(Pose(above, now.quaternion))
        arm.approach(start)

    def _ask_to_leave(self, *, goes_on: bool) -> None:
        """Nothing begins to move by itself: somebody may be reaching in."""
        if goes_on:
            self._ask(
                f"hands off: {self.task.name} goes on from there, the arm goes to its start and "
                "the fingers stay as they are"
            )
            return
        fingers = "close and open" if self.cell.homing else "open"
        self._ask(f"hands off: the fingers {fingers}, and the arm goes to its start")

    def _ask_for_the_scene(self) -> None:
        """Again, where a camera was waited for: they may have reached in meanwhile."""
        request = f"{self.task.name}: put things in place for {self.task.instruction!r}"
        self._ask(request)
        while not self.cell.watched():
            self.cell.await_person()
            self._ask(request)

    def _ask(self, request: str) -> None:
        patience = TO_ANSWER * self.config.timeout  # the worker would be taken for hung
        if not self.cell.teleop.wait_ready(request, patience=patience):
            raise UserError(
                f"nobody said within {patience:.0f} s ({request}): try a longer --env.timeout"
            )

    def _observe(self) -> np.ndarray:
        self.draw = True  # whatever it is told: an arm does not move unseen
        return super()._observe()
