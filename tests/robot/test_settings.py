"""The settings of an arm: what a person gets wrong is said in one line."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from recorded import record

from irevla.config import EnvConfig, ExpertConfig
from irevla.data.demonstrated import Demonstrated
from irevla.envs.panda.suite import PANDA_SIM
from irevla.envs.panda.tasks import SPECS
from irevla.envs.suite import Suite, load_suite
from irevla.errors import UserError
from irevla.presets import find_preset
from irevla.robot.driver import FRANKA_HAND
from irevla.robot.settings import FILE, read_settings
from irevla.robot.suite import PANDA
from irevla.rollout.demonstrations import open_demonstrations, open_store
from irevla.runs.run import open_run
from irevla.stages.preflight import preflight
from irevla.stages.start import pin_tasks
from irevla.storage import disk
from irevla.types import Episode, Provenance

GOOD = {
    "driver": "franka",
    "host": "172.16.0.2",
    "policy": 12345678,
    "workspace": {"low": [0.3, -0.3, 0.02], "high": [0.7, 0.3, 0.5]},
    "home": {"position": [0.5, 0, 0.3], "yaw": 0.5},
    "cameras": {
        "front": {"kind": "opencv", "device": 0},
        "wrist": {"kind": "realsense", "device": "0123"},
    },
    "limits": {"speed": 0.1},
}


def written(folder: Path, **changes: object) -> Path:
    path = folder / "arm.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}, sort_keys=False))
    return path


def test_it_reads_what_was_written(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path))
    assert (
        settings.limits.speed == 0.1
        and settings.limits.low == (0.3, -0.3, 0.02)
        and settings.policy == "12345678"
    )
    assert settings.dry_run and settings.realtime  # unless a person says otherwise
    assert np.allclose(settings.home.position, [0.5, 0.0, 0.3]) and settings.home.tilt < 1e-6
    assert settings.cameras["wrist"].device == "0123" and settings.fingertips == FRANKA_HAND


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"drivr": "franka"}, "did you mean 'driver'"),
        ({"driver": "ros"}, "unknown driver 'ros'"),
        ({"host": None}, "host must be a str"),
        (
            {"workspace": {"low": [0.3, -0.3], "high": [0.7, 0.3, 0.5]}},
            "workspace.low must be three numbers",
        ),
        ({"workspace": {"low": [0.7, -0.3, 0], "high": [0.3, 0.3, 0.5]}}, "is no box"),
        (
            {"workspace": {"low": [float("nan"), -0.3, 0], "high": [0.3, 0.3, 0.5]}},
            "workspace.low must be a float",
        ),
        ({"home": {"position": [0.5, 0.0, 0.9]}}, "outside the workspace"),
        ({"limits": {"sped": 0.1}}, "did you mean 'speed'"),
        ({"limits": {"speed": "fast"}}, "speed must be a float"),
        ({"limits": {"speed": -1}}, "limits.speed must be above 0"),
        ({"cameras": {"front": {"kind": "opencv"}}}, "cameras.wrist must be settings"),
        ({"cameras": {"frnt": {}}}, "cameras.front must be settings"),
        ({"cameras": {"both": {}}}, "none 'both'"),
        ({"cameras": {"over the table": {}}}, "small letters, digits and _"),
        ({"view": "8017"}, "view must be HOST:PORT"),
        ({"view": "127.0.0.1:99999"}, "view must be HOST:PORT"),
        ({"cameras": {"front": {"kind": "webcam"}, "wrist": {}}}, "unknown kind 'webcam'"),
        ({"success_detector": "classifier"}, "needs 'classifier'"),
        ({"success_detector": "referee"}, "unknown success_detector 'referee'"),
        ({"judge": "classifier"}, "needs 'classifier'"),
        ({"person": "spacemouse"}, "spacemouse is not supported any more"),
        ({"dry_run": "no"}, "dry_run must be a bool"),
        ({"dynamics": 2.0}, "dynamics must be in"),
        ({"force": 200.0}, r"force must be in \(0, 70\]"),
        ({"timeout": 60.0}, r"timeout must be in \(0, 0.5\]"),
        ({"limits": {"pace": 2.0}}, "limits.pace must be above 0, and 0.25 at most"),
        ({"policy": "a"}, "policy must be the first 8 hexadecimal digits"),
        ({"policy": "latest-one"}, "policy must be the first 8 hexadecimal digits"),
        ({"fingertips": {"position": [0.0, 0.1]}}, "fingertips.position must be three numbers"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words) as told:
        read_settings(written(tmp_path, **changes))
    assert "\n" not in str(told.value) and "arm.yaml" in str(told.value)


TOWELS = {
    "fold-towel": {"category": "expert", "instruction": "fold the towel"},
    "fold-red-towel": {"category": "rl", "instruction": "fold the red towel", "note": "red"},
}


def test_a_person_names_tasks_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FILE, str(written(tmp_path, tasks=TOWELS, undoes={})))
    suite = load_suite("panda")
    assert [(task.name, task.instruction) for task in suite.tasks] == [
        ("fold-towel", "fold the towel"),
        ("fold-red-towel", "fold the red towel"),
    ]
    preset = find_preset("panda")
    mine = replace(preset, expert_tasks=(), rl_tasks=(), unseen_tasks=())
    assert suite.task_lists(mine).expert == ("fold-towel",)
    assert suite.task_lists(mine).rl == ("fold-red-towel",)
    with pytest.raises(
        UserError, match="unknown task of panda 'pick-red-block'; choose from: fold"
    ):
        suite.task_lists(preset)
    monkeypatch.setenv(FILE, str(written(tmp_path)))
    assert load_suite("panda").tasks == PANDA.tasks
    monkeypatch.delenv(FILE)
    assert load_suite("panda").tasks == PANDA.tasks


def test_stage_0_of_own_tasks_is_from_a_dataset_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its actions are displacements in m, turns in rad, and the gripper's."""
    monkeypatch.setenv(FILE, str(written(tmp_path, tasks=TOWELS)))
    monkeypatch.setenv(disk.CACHE, str(tmp_path / "cache"))
    actions = np.tile(np.array([0.04, -0.02, 0, 0.125, 0, 0, 1], np.float32), (3, 1))
    episodes = [(np.zeros((3, 48, 64, 3), np.uint8), actions)]
    record(tmp_path / "mine", episodes, instruction="Fold the towel.", fps=10)
    suite = load_suite("panda")
    expert = ExpertConfig(dataset=str(tmp_path / "mine"))
    shown = open_demonstrations(suite, ["fold-towel"], expert, env=EnvConfig())
    assert isinstance(shown, Demonstrated)
    assert np.allclose(shown.read().actions[0], [1, -0.5, 0, 0.5, 0, 0, 1])
    thirds = [(np.zeros((7, 48, 64, 3), np.uint8), np.tile(actions[:1] / 3, (7, 1)))]
    thirds[0][1][:, 6] = 1
    record(tmp_path / "fast", thirds, instruction="fold the towel", fps=30)
    fast = ExpertConfig(dataset=str(tmp_path / "fast"), stride=3)
    added = open_demonstrations(suite, ["fold-towel"], fast, env=EnvConfig())
    assert isinstance(added, Demonstrated) and "added up" in " ".join(added.notes)
    whole = np.array([1, -0.5, 0, 0.5, 0, 0])
    summed = added.read().actions
    assert np.allclose(summed[:2, :6], [whole, whole], atol=1e-5) and np.allclose(summed[:, 6], 1)
    assert np.allclose(summed[2, :6], whole / 3, atol=1e-5), "what is left of the last one"
    record(tmp_path / "far", [(episodes[0][0], 2 * actions)], instruction="fold the towel", fps=10)
    far = ExpertConfig(dataset=str(tmp_path / "far"))
    with pytest.raises(UserError, match=r"action is 0\.08 .* and panda takes -0\.04 to 0\.04"):
        opened = open_demonstrations(suite, ["fold-towel"], far, env=EnvConfig())
        assert isinstance(opened, Demonstrated) and opened.read()
    assert np.array_equal(PANDA_SIM.action_range.high, PANDA.action_range.high)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": ["fold"]}, "tasks must be settings with names"),
        ({"tasks": {"fold": "fold the towel"}}, "tasks.fold must be settings with names"),
        ({"tasks": {"fold": {"category": "rl"}}}, "tasks.fold has no instruction"),
        ({"tasks": {"fold": {"instruction": "fold"}}}, "unknown category of tasks.fold ''"),
        (
            {"tasks": {"fold": {"category": "experts", "instruction": "fold"}}},
            "did you mean 'expert'",
        ),
        (
            {"tasks": {"../fold": {"category": "rl", "instruction": "fold"}}},
            "a task's name has letters",
        ),
        (
            {"tasks": {"fold": {"category": "rl", "instruction": "fold"}}},
            "no task of tasks is of the category 'expert'",
        ),
        ({"tasks": TOWELS, "homes": {"pick-carrot": {}}}, "unknown task of homes 'pick-carrot'"),
        ({"tasks": TOWELS, "undoes": {"fold-towel": "pick-carrot"}}, "unknown task of undoes"),
    ],
)
def test_what_is_wrong_with_own_tasks_is_said(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words) as told:
        read_settings(written(tmp_path, **changes))
    assert "\n" not in str(told.value) and "arm.yaml" in str(told.value)


def test_a_cell_has_two_cameras_and_whatever_else_is_named(tmp_path: Path) -> None:
    side = {"kind": "opencv", "device": 2, "crop": [0, 0, 0.5, 1]}
    named = {"side": side, **GOOD["cameras"]}  # type: ignore[dict-item]
    settings = read_settings(written(tmp_path, cameras=named, detector={"camera": "side"}))
    assert list(settings.cameras) == ["front", "wrist", "side"]
    assert settings.cameras["side"].crop == (0, 0, 0.5, 1)
    with pytest.raises(UserError, match="unknown camera 'side'"):
        read_settings(written(tmp_path, detector={"camera": "side"}))


def test_a_policy_sees_the_cameras_that_the_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {**GOOD["cameras"], "side": {"kind": "opencv", "device": 2}}  # type: ignore[dict-item]
    monkeypatch.setenv(FILE, str(written(tmp_path, cameras=named)))
    PANDA.check_senses(EnvConfig(cameras=("side", "front", "wrist")))
    with pytest.raises(UserError, match="did you mean 'side'"):
        PANDA.check_senses(EnvConfig(cameras=("front", "sied")))
    with pytest.raises(UserError, match="unknown camera of panda-sim 'side'"):
        PANDA_SIM.check_senses(EnvConfig(cameras=("side",)))


def test_a_file_of_version_0_1_reads_as_before(tmp_path: Path) -> None:
    old = written(tmp_path, judge="classifier", classifier="carrot", person="keys")
    settings = read_settings(old)
    assert (settings.success_detector, settings.classifier) == ("classifier", "carrot")


def test_a_number_beyond_all_floats_is_told(tmp_path: Path) -> None:
    workspace = {"low": [0.3, -0.3, 0.1], "high": [0.6, 0.3, 10**400]}
    with pytest.raises(UserError, match=r"workspace\.high must be a float"):
        read_settings(written(tmp_path, workspace=workspace))


def test_a_file_that_is_none_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"none\.yaml is missing"):
        read_settings(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1,\nb: }")
    with pytest.raises(UserError, match="no settings in YAML") as told:
        read_settings(tmp_path / "bad.yaml")
    assert "\n" not in str(told.value)
    monkeypatch.delenv(FILE, raising=False)
    with pytest.raises(UserError, match=f"export {FILE}=arm.yaml"):
        PANDA.check()


def test_the_suite_offers_the_tasks_of_its_simulated_twin() -> None:
    assert load_suite("panda") == replace(PANDA, source="panda") and isinstance(PANDA, Suite)
    assert (
        PANDA.tasks == PANDA_SIM.tasks
        and PANDA.action_dim == PANDA_SIM.action_dim
        and PANDA.fps == PANDA_SIM.fps
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (EnvConfig(workers=2, envs_per_worker=1, timeout=600.0), "there is one arm"),
        (EnvConfig(workers=1, envs_per_worker=1), "--env.timeout 120"),
    ],
)
def test_one_arm_and_a_person_need_their_settings(config: EnvConfig, words: str) -> None:
    with pytest.raises(UserError, match=words):
        PANDA.make("pick-carrot", config)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FILE, str(written(tmp_path, driver="serl")))
    with pytest.raises(UserError, match="pip install pyrealsense2"):
        PANDA.check()


def test_a_run_on_the_arm_asks_for_what_people_have_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = {"kind": "opencv", "device": 1}
    cameras = {"front": camera, "wrist": camera}
    monkeypatch.setenv(FILE, str(written(tmp_path, cameras=cameras, driver="serl")))
    preset = replace(find_preset("panda"), expert_tasks=("pick-red-block",))
    with pytest.raises(UserError, match="let people demonstrate"):
        preflight(preset)
    store = open_store(PANDA, preset.env, tmp_path / "shown")
    store.append(
        Episode(
            images=np.zeros((1, *preset.env.image_shape), np.uint8),
            actions=np.zeros((1, PANDA.action_dim), np.float32),
            rewards=np.ones(1, np.float32),
            instruction=PANDA.task("pick-red-block").instruction,
            success=True,
            provenance=Provenance("panda", "pick-red-block", 0, "expert"),
            state=np.zeros((1, len(PANDA.state)), np.float32),
        )
    )
    shown = replace(preset, expert=replace(preset.expert, dataset=str(store.root)))
    with pytest.raises(UserError, match="dry_run: true, where nothing moves"):
        preflight(shown)
    written(tmp_path, cameras=cameras, driver="serl", dry_run=False)
    with pytest.raises(UserError, match=r"name one policy \(12345678\), and a run makes others"):
        preflight(shown)
    preflight(replace(shown, method="sft"))
    written(tmp_path, cameras=cameras, driver="serl", policy="", dry_run=False)
    with pytest.raises(UserError, match=r"no videos of panda: --eval\.no-videos"):
        preflight(replace(shown, eval=replace(preset.eval, videos=True)))
    with pytest.raises(UserError, match="--rl sac on panda"):
        preflight(replace(shown, rl="ppo", harvest=replace(preset.harvest, from_training=False)))
    _, tasks = preflight(shown)
    assert tasks.rl == ("pick-carrot",)


def test_the_preset_is_that_of_the_simulation_with_a_person_beside_it() -> None:
    real = find_preset("panda")
    sim = find_preset("panda-sim")
    for name in ("sft", "sl", "mixture", "rounds", "rl"):
        assert getattr(real, name) == getattr(sim, name), name
    for name in ("horizon", "rl_horizon", "cameras", "state", "image_size"):
        assert getattr(real.env, name) == getattr(sim.env, name), name
    assert replace(real.sac, async_learner=False, keep_failures=False) == sim.sac
    assert replace(real.harvest, noise=sim.harvest.noise, burst=sim.harvest.burst) == sim.harvest
    skills = {SPECS[task].skill for task in real.expert_tasks}
    assert skills == {"pick", "place", "press", "pull", "route"}
    assert real.harvest.noise == real.expert.noisy_fraction == 0.0


def test_the_documented_settings_are_what_one_has_without_them(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "real-robot.md").read_text()
    needed, *others = (
        yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    )
    assert len(others) == 2, "the defaults, and those of the detector"
    path = tmp_path / "arm.yaml"
    read = []
    for found in (needed, needed | others[0] | others[1] | {"classifier": ""}):
        path.write_text(yaml.safe_dump(found))
        read.append(read_settings(path))
    bare, whole = read
    assert np.allclose(bare.fingertips.quaternion, whole.fingertips.quaternion, atol=1e-5)
    same = {"fingertips": bare.fingertips, "home": bare.home}
    assert replace(whole, **same) == bare


def test_a_run_goes_on_with_the_tasks_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FILE, str(written(tmp_path, tasks=TOWELS)))
    config = replace(find_preset("panda"), expert_tasks=(), rl_tasks=(), unseen_tasks=())

    def begin() -> None:
        suite = load_suite("panda")
        with open_run(tmp_path / "run", config) as run:
            pin_tasks(run, suite, suite.task_lists(config))

    begin()
    begin()
    other = {**TOWELS, "fold-red-towel": {"category": "rl", "instruction": "tear the red towel"}}
    written(tmp_path, tasks=other)
    with pytest.raises(UserError, match="the description of the tasks of panda is not the one"):
        begin()
