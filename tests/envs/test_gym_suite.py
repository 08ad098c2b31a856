"""Any gymnasium environment as a suite: what a YAML file says, and what does not fit, in one
line."""

import os
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env

from irevla.cli.main import main
from irevla.config import EnvConfig
from irevla.envs.suite import Suite, load_suite, suite_of_file
from irevla.errors import UserError
from irevla.storage.read import read_yaml

INSTRUCTION = "move to the mark"
SLIDER: dict[str, Any] = {
    "id": "others_env:Slider-v0",
    "image": "pixels.top",
    "success": "info.is_success",
    "tasks": {
        "slide": {"category": "expert", "instruction": INSTRUCTION},
        "slide-dark": {
            "category": "rl",
            "instruction": INSTRUCTION,
            "note": "darker",
            "make": {"colour": 120},
        },
        "slide-black": {"category": "unseen", "instruction": INSTRUCTION, "make": {"colour": 60}},
    },
}
ENV = EnvConfig(image_size=32, horizon=20, action_repeat=1)


def described(folder: Path, **changes: Any) -> str:
    """The name of the suite that a file describes."""
    path = folder / "slider.yaml"
    path.write_text(yaml.safe_dump({**SLIDER, **changes}, sort_keys=False))
    return f"gym:{path}"


def suite(folder: Path, **changes: Any) -> Suite:
    return load_suite(described(folder, **changes))


def made(folder: Path, task: str = "slide", *, config: EnvConfig = ENV, **changes: Any) -> Any:
    return suite(folder, **changes).make(task, config).unwrapped


def test_what_the_file_says(tmp_path: Path) -> None:
    found = suite(tmp_path)
    assert found.name == "others_env:Slider-v0" and found.action_dim == 1
    assert [task.category.value for task in found.tasks] == ["expert", "rl", "unseen"]
    assert found.task("slide-dark").note == "darker"
    assert not found.scripted_expert
    assert found.rate(ENV) == 10 and found.rate(EnvConfig(action_repeat=2)) == 5
    assert suite(tmp_path, fps=25).rate(ENV) == 25
    assert found.render_settings(ENV) != suite(tmp_path, image="render()").render_settings(ENV)


def test_it_is_a_gymnasium_environment(tmp_path: Path) -> None:
    check_env(made(tmp_path), skip_render_check=True)


def test_actions_are_scaled_to_the_environments_own(tmp_path: Path) -> None:
    env = made(tmp_path)
    env.reset(seed=0)
    inner = env._inner.unwrapped
    for action, move in ((1.0, 0.1), (-0.5, -0.05), (0.0, 0.0)):
        inner.place = 0.5
        inner.mark = 0.0
        env.step(np.array([action], np.float32))
        assert inner.place - 0.5 == pytest.approx(move)


def test_success_ends_the_episode_and_a_fall_does_without_one(tmp_path: Path) -> None:
    env = made(tmp_path, config=EnvConfig(image_size=32, horizon=50, action_repeat=2))
    env.reset(seed=0)
    inner = env._inner.unwrapped
    inner.place, inner.mark = 0.3, 0.4
    *_, info = ended = env.step(np.array([1.0], np.float32))
    assert ended[1:4] == (1.0, True, False) and info["success"] is True
    assert inner.place < 0.45, "a solved task is not acted in any more"
    env.reset(seed=0)
    inner.place, inner.mark = 0.05, 0.9
    *_, info = ended = env.step(np.array([-1.0], np.float32))
    assert ended[1:4] == (0.0, True, False) and info["success"] is False


@pytest.mark.skipif(sys.platform != "linux", reason="others have one library")
def test_mujoco_finds_a_library_where_there_is_no_display(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gym-aloha, by dm_control, took the one for windows, and ended with a traceback."""
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY", "LP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that it is as before in the end
        monkeypatch.delenv(name)
    monkeypatch.setenv("DISPLAY", ":0")
    suite(tmp_path)
    assert "MUJOCO_GL" not in os.environ
    monkeypatch.delenv("DISPLAY")
    suite(tmp_path)
    assert os.environ["MUJOCO_GL"] in ("egl", "osmesa")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    suite(tmp_path)
    assert os.environ["MUJOCO_GL"] == "glfw"


def test_the_horizon_is_ours_alone(tmp_path: Path) -> None:
    """The environment is registered with 3 steps."""
    env = made(tmp_path)
    env.reset(seed=0)
    env._inner.unwrapped.mark = 2.0
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(20)]
    assert ends == [(False, False)] * 19 + [(False, True)]


@pytest.mark.parametrize(
    ("says", "success"),
    [("success", "info.success"), ("nothing", "reward"), ("done_well", "info.done_well")],
)
def test_ways_to_say_success(says: str, success: str, tmp_path: Path) -> None:
    """One of them says it at the end alone; a fall is none, whoever says it."""
    env = made(tmp_path, success=success, make={"says": says})
    for start, solved in ((0.5, True), (-0.5, False)):
        env.reset(seed=0)
        env._inner.unwrapped.place = start
        env._inner.unwrapped.mark = 0.5
        if solved or says != "success":
            assert env.step(np.zeros(1, np.float32))[4]["success"] is solved


def test_no_word_of_success_is_told(tmp_path: Path) -> None:
    env = made(tmp_path, make={"says": "done_well"})
    env.reset(seed=0)
    env._inner.unwrapped.mark = 2.0
    env.step(np.zeros(1, np.float32))
    env._inner.unwrapped.place = -1.0
    with pytest.raises(UserError, match=r"without info\['is_success'\] .it has done_well"):
        env.step(np.zeros(1, np.float32))


@pytest.mark.parametrize("careless", [False, True])
def test_the_seed_alone_decides_an_episode(careless: bool, tmp_path: Path) -> None:
    """Even where the environment draws from numpy's own generator, whatever it is told."""
    env = made(tmp_path, make={"careless": careless})
    first, _ = env.reset(seed=5)
    env.step(np.ones(1, np.float32))
    again, _ = env.reset(seed=5)
    other, _ = env.reset(seed=6)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    place = env._inner.unwrapped.place
    dark = made(tmp_path, "slide-dark", make={"careless": careless})
    dark.reset(seed=6)
    assert dark._inner.unwrapped.place != place, "each task has its own scenes"


def test_all_of_the_image_is_seen(tmp_path: Path) -> None:
    """It is 20 x 40: in a square of 32 it has 16 rows."""
    for image in ("pixels.top", "render()"):
        env = made(tmp_path, "slide-black", image=image)
        seen, _ = env.reset(seed=0)
        assert seen[:8].max() == seen[24:].max() == 0 and seen[8:24].min() > 0
        assert (seen == 60).all(2).any()
        assert env.picture(64).shape == (64, 64, 3)


def test_images_that_nobody_looks_at_are_not_rendered(tmp_path: Path) -> None:
    env = made(tmp_path, image="render()")
    env.draw = False
    assert env.reset(seed=0)[0].max() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "'id' is missing"),
        ({"success": ""}, "'success' is missing"),
        ({"tasks": {}}, "'tasks' is missing"),
        ({"sucess": "reward"}, "did you mean .*success"),
        ({"success": "is_success"}, "'info.is_success'"),
        ({"tasks": {"slide": "expert"}}, "must be a group with category"),
        ({"tasks": {"slide": {"category": "exprt", "instruction": "x"}}}, "did you mean 'expert'"),
        ({"tasks": {"slide": {"category": "expert", "instruction": " "}}}, "no instruction"),
        ({"tasks": {"slide": {"category": "rl", "instruction": "x"}}}, "no task is .*'expert'"),
        ({"id": "others_env:Slidr-v0"}, "gymnasium cannot make others_env:Slidr-v0"),
        ({"id": "nowhere_env:Slider-v0"}, "gymnasium cannot make.*install its package"),
        ({"make": {"colours": 3}}, "gymnasium cannot make.*colours"),
        ({"image": "pixels.side"}, "no image 'pixels.side'.*: there is depth, top; name the key"),
        ({"image": ""}, "no image 'the observation'"),
        ({"image": "state"}, "no image 'state'"),
        ({"image": "pixels.depth"}, "no image 'pixels.depth'"),
        ({"make": {"bounded": False}}, "actions without bounds.*low and high"),
        ({"low": [0.0, 1.0]}, "takes 1 numbers, and low or high has others"),
        ({"low": ["a"]}, "'low' must be a list of numbers"),
        ({"low": [10.0]}, "low must be below high"),
        ({"low": [10**400]}, "'low' must be a list of numbers"),
        ({"high": [1e39]}, "'high' must be a list of numbers"),
        ({"make": {"most": 3e38}}, "actions without bounds"),
        ({"success": "info."}, "'info.is_success'"),
        ({"expert": "others_env:SCALE"}, "cannot be imported: SCALE is 50.0, and no function"),
        ({"id": "gone:Slider-v0"}, "gymnasium cannot make gone:Slider-v0.*(SystemExit)"),
        ({"expert": "gone:expert"}, "cannot be imported.*(SystemExit)"),
        ({"tasks": {"a/b": SLIDER["tasks"]["slide"]}}, "a task's name has letters"),
        ({"tasks": {"a:b": SLIDER["tasks"]["slide"]}}, "a task's name has letters"),
        ({"tasks": {"a" * 101: SLIDER["tasks"]["slide"]}}, "100 at most"),
        ({"fps": "often"}, "fps' must be float"),
        ({"fps": 1e-9}, "'fps' is 1e-09, and must be 0.1 to 10,000 steps per second"),
        ({"fps": -3.0}, "'fps' is -3, and must be 0.1 to 10,000 steps per second"),
        ({"make": {"render_mode": "human"}}, "make has render_mode 'human', .*: leave it out"),
        ({"make": {"max_episode_steps": 9}}, "make has max_episode_steps: .*say --env.horizon"),
        ({"make": {"id": "Slider-v0"}}, "make has id: .*leave it out"),
        (
            {"tasks": {"slide": {**SLIDER["tasks"]["slide"], "make": {"max_episode_steps": 9}}}},
            "tasks.slide.make has max_episode_steps",
        ),
    ],
)
def test_one_line(
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "gone.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = described(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        load_suite(name)
    assert main(["tasks", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [({"colours": 3}, "cannot make.*colours"), ({"most": 7.0}, "slide-odd takes other actions")],
)
def test_every_task_is_made_once_before_any_work(
    make: dict[str, Any], message: str, tmp_path: Path
) -> None:
    odd = {"category": "unseen", "instruction": INSTRUCTION, "make": make}
    found = suite(tmp_path, tasks={**SLIDER["tasks"], "slide-odd": odd})
    with pytest.raises(UserError, match=message):
        found.check()
    assert main(["tasks", str(found.source)]) == 2
    suite(tmp_path).check()


class Silent(gym.Env[Any, Any]):
    """It takes whole numbers, or says not how many steps a second has."""

    def __init__(self, discrete: bool) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
        one = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(4) if discrete else one


@pytest.mark.parametrize(
    ("discrete", "message"), [(True, r"actions of Discrete\(4\)"), (False, "set fps in")]
)
def test_what_no_policy_of_ours_can_act_in(discrete: bool, message: str, tmp_path: Path) -> None:
    if "Silent-v0" not in gym.registry:
        gym.register("Silent-v0", entry_point=Silent)
    changes = {"id": "Silent-v0", "image": "", "make": {"discrete": discrete}}
    with pytest.raises(UserError, match=message):
        suite(tmp_path, **changes)


def test_bounds_that_the_file_gives(tmp_path: Path) -> None:
    found = suite(tmp_path, make={"bounded": False}, low=[2], high=[6.5])
    assert found.action_range is not None
    native = found.action_range.native(np.array([-1.0], np.float32))
    assert native == np.array([2.0], np.float32)


def test_a_scripted_expert_acts_in_the_environments_own_units(tmp_path: Path) -> None:
    """And says so in ours: Slider calls 0 and 10 what a policy calls -1 and 1."""
    assert suite(tmp_path, expert="others_env:expert").scripted_expert
    env = made(tmp_path, expert="others_env:expert")
    for seed in range(5):
        env.reset(seed=seed)
        assert np.abs(env.expert_action()).max() <= 1
        ends = [env.step(env.expert_action())[4]["success"] for _ in range(8)]
        assert any(ends)


def test_an_expert_that_leaves_the_action_space_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = "the expert of others_env:Slider-v0 leaves the action space"
    for name, times in (("expert", 0), ("eager", 1)):
        env = made(tmp_path, expert=f"others_env:{name}")
        for seed in range(3):
            env.reset(seed=seed)
            assert np.abs(env.expert_action()).max() <= 1
        assert caplog.text.count(told) == times


def test_an_expert_changes_no_dataset(tmp_path: Path) -> None:
    plain = suite(tmp_path).render_settings(ENV)
    assert suite(tmp_path, expert="others_env:expert").render_settings(ENV) == plain


def test_who_is_no_expert(tmp_path: Path) -> None:
    for expert in ("others_env", "others_env:nobody", "nowhere:expert", ":expert"):
        with pytest.raises(UserError, match=f"{expert}', cannot be imported.*module:function"):
            suite(tmp_path, expert=expert)
    env = made(tmp_path, expert="others_env:mute")
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"says \[\], and must say 1 finite numbers"):
        env.expert_action()
    with pytest.raises(UserError, match="no scripted expert"):
        made(tmp_path).expert_action()


def test_a_name_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gym:Slider-v0 names no YAML file"):
        load_suite("gym:Slider-v0")
    with pytest.raises(UserError, match="is missing"):
        load_suite(f"gym:{tmp_path}/nowhere.yaml")


def test_no_file_of_others_names_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="code from elsewhere"):
        suite_of_file(described(tmp_path), tmp_path / "config.yaml")


def test_a_key_that_is_told_twice(tmp_path: Path) -> None:
    path = tmp_path / "slider.yaml"
    path.write_text(yaml.safe_dump(SLIDER) + "image: render()\n")
    with pytest.raises(UserError, match="'image' is told twice"):
        load_suite(f"gym:{path}")
    path.write_text("a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: *b, z: 4}\n")
    assert read_yaml(path)["c"] == {"x": 1, "y": 3, "z": 4}, "a merge is none"


class Odd(gym.Env[Any, Any]):
    """It is not as gymnasium has it, in one respect."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space: gym.spaces.Box = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, what: str, value: Any = None) -> None:
        print("made")
        self.what = what
        self.value = value
        self.seen: list[Any] = []
        if what == "fps":
            self.metadata = {**self.metadata, "render_fps": value}
        if what == "channels":
            self.observation_space = gym.spaces.Box(0, 255, (8, 8, value), np.uint8)
        if what == "integers":
            self.action_space = gym.spaces.Box(0, value, (1,), np.int64)
        if what == "bound":
            self.action_space = gym.spaces.Box(0.0, value, (1,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self._image() if self.what == "reset" else (self._image(), {})

    def step(self, action: Any) -> Any:
        self.seen.append(action)
        if self.what == "four":
            return self._image(), 0.0, False, {}
        info = {"is_succes": False} if self.what == "typo" else {"is_success": False}
        if self.what in ("success", "info"):
            info = {"is_success": self.value} if self.what == "success" else self.value
        reward = self.value if self.what == "reward" else 0.0
        ended = self.value if self.what == "terminated" else self.what == "reward"
        return self._image(), reward, ended, False, info

    def close(self) -> None:
        if self.what == "close":
            raise RuntimeError("it will not close")

    @staticmethod
    def _image() -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8)


def odd(folder: Path, what: str, value: Any = None, **changes: Any) -> Suite:
    if "Odd-v0" not in gym.registry:
        gym.register("Odd-v0", entry_point=Odd)
    return suite(
        folder, **{"id": "Odd-v0", "image": "", "make": {"what": what, "value": value}, **changes}
    )


def played(found: Suite, *, decisions: int = 20) -> list[bool]:
    env = found.make("slide", ENV)
    env.reset(seed=0)
    return [env.step(np.zeros(1, np.float32))[4]["success"] for _ in range(decisions)]


ODD_TASKS = {"tasks": {"slide": SLIDER["tasks"]["slide"]}}


@pytest.mark.parametrize(
    ("what", "value", "message"),
    [
        ("channels", 1, "no image 'the observation', uint8"),
        ("channels", 4, "no image"),
        ("close", None, "it will not close"),
        ("fps", "fast", "set fps in"),
        ("fps", float("nan"), "set fps in"),
        ("fps", 1e-9, "says that a second has 1e-09 steps: set fps in"),
    ],
)
def test_an_odd_environment_is_told_before_any_work(
    what: str, value: Any, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=message):
        odd(tmp_path, what, value, **ODD_TASKS)
    assert "made" not in capfd.readouterr().out, "what it prints is no output of ours"


@pytest.mark.parametrize(
    ("what", "value", "message"),
    [
        ("reset", None, r"reset of Odd-v0 is .*, and must be \(observation, info\)"),
        ("four", None, "step of Odd-v0"),
        ("info", None, "step of Odd-v0"),
        (
            "success",
            "False",
            r"info\['is_success'\] of Odd-v0 is 'False', and must be true or false",
        ),
        ("success", 0.01, "true or false"),
        ("success", float("nan"), "true or false"),
        ("success", [True, False], "true or false"),
        ("success", {"a": False}, "true or false"),
        ("typo", None, r"without info\['is_success'\] .it has is_succes"),
        ("terminated", 2, "step of Odd-v0"),
        ("terminated", "yes", "step of Odd-v0"),
    ],
)
def test_an_odd_step_is_told(what: str, value: Any, message: str, tmp_path: Path) -> None:
    found = odd(tmp_path, what, value, **ODD_TASKS)
    with pytest.raises(UserError, match=message):
        played(found)


@pytest.mark.parametrize("value", [None, [1.0, 2.0], "1"])
def test_a_reward_is_a_number(value: Any, tmp_path: Path) -> None:
    found = odd(tmp_path, "reward", value, success="reward", **ODD_TASKS)
    with pytest.raises(UserError, match="a reward that is a number"):
        played(found)
    assert played(odd(tmp_path, "reward", 1.0, success="reward", **ODD_TASKS), decisions=1) == [
        True
    ]


@pytest.mark.parametrize("value", [True, 1, 1.0, np.bool_(True), np.array([True])])
def test_what_is_true(value: Any, tmp_path: Path) -> None:
    env = odd(tmp_path, "success", False, **ODD_TASKS).make("slide", ENV)
    env.reset(seed=0)
    env.unwrapped._inner.unwrapped.value = value  # type: ignore[attr-defined]
    assert env.step(np.zeros(1, np.float32))[4]["success"]


def test_actions_in_whole_numbers_are_rounded(tmp_path: Path) -> None:
    found = odd(tmp_path, "integers", 10, **ODD_TASKS)
    assert found.action_range is not None
    env = found.make("slide", ENV)
    env.reset(seed=0)
    for number in range(11):
        env.step(found.action_range.scaled(np.array([number], np.float32)))
    seen = env.unwrapped._inner.unwrapped.seen  # type: ignore[attr-defined]
    assert [int(action[0]) for action in seen] == list(range(11))
    env = odd(tmp_path, "bound", 0.3, **ODD_TASKS).make("slide", ENV)
    env.reset(seed=0)
    env.step(np.ones(1, np.float32))
    inner: Any = env.unwrapped._inner.unwrapped  # type: ignore[attr-defined]
    assert inner.action_space.contains(inner.seen[0]) and inner.seen[0][0] == 0.3


def test_bounds_of_the_file_may_be_wider_than_the_environments(tmp_path: Path) -> None:
    """gym-aloha's joints go beyond the -1 to 1 that it says."""
    env = odd(tmp_path, "wide", low=[-2.0], high=[2.0], **ODD_TASKS).make("slide", ENV)
    env.reset(seed=0)
    env.step(np.ones(1, np.float32))
    inner: Any = env.unwrapped._inner.unwrapped  # type: ignore[attr-defined]
    assert inner.seen[0][0] == 2.0


@pytest.mark.parametrize("other", ["success_rate", "is_success_subtask", "was_successful"])
def test_success_may_be_told_only_once_it_is_true(other: str, tmp_path: Path) -> None:
    assert played(odd(tmp_path, "info", {other: 0.5}, **ODD_TASKS)) == [False] * 20
    assert played(odd(tmp_path, "success", None, **ODD_TASKS)) == [False] * 20


def test_success_that_is_never_told_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where it has another name; nothing is ever solved then."""
    for _ in range(2):
        found = odd(tmp_path, "info", {"success": True}, success="info.is_success", **ODD_TASKS)
        assert played(found) == [False] * 20
    said = "Odd-v0 has not said info['is_success'] in a whole episode (it has success)"
    assert caplog.text.count(said) == 1


def test_success_in_a_group_of_info(tmp_path: Path) -> None:
    told = {"metrics": {"solved": True}}
    found = odd(tmp_path, "info", told, success="info.metrics.solved", **ODD_TASKS)
    assert played(found, decisions=1) == [True]


def test_a_rate_of_numpy(tmp_path: Path) -> None:
    rate = {"render_modes": ["rgb_array"], "render_fps": np.int64(25)}
    Odd.metadata, before = rate, Odd.metadata
    try:
        assert odd(tmp_path, "", **ODD_TASKS).control_hz == 25
    finally:
        Odd.metadata = before
