"""Human demonstrations of the kitchen: files as Minari and R3M write them, made here from the
scripted experts."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("h5py")
pytest.importorskip("gymnasium_robotics")

import h5py

from irevla.cli.main import main
from irevla.config import EnvConfig
from irevla.data.episodes import EpisodeStore
from irevla.envs.kitchen import humans
from irevla.envs.kitchen.env import START, KitchenEnv
from irevla.envs.kitchen.suite import KITCHEN
from irevla.envs.kitchen.tasks import SKILLS
from irevla.errors import UserError

CONFIG = EnvConfig(horizon=80, image_size=32)


def at_rest(task: str) -> KitchenEnv:
    """An environment whose kitchen stands where FrankaKitchen-v1 has it."""
    env = KitchenEnv(task, CONFIG)
    env.draw = False
    env.reset(seed=0)
    env.show(np.concatenate([START, env.model.qpos0[9:]]))
    return env


@pytest.fixture(scope="module")
def light() -> np.ndarray:
    return recording("light-on")


@pytest.fixture(scope="module")
def slide() -> np.ndarray:
    return recording("slide-door-open")


def recording(task: str) -> np.ndarray:
    """The states that the scripted expert goes through, to success."""
    env, states, over = at_rest(task), [], False
    while not over:
        states.append(env.data.qpos.copy())
        _, _, over, truncated, _ = env.step(env.expert_action())
        assert not truncated, "the expert fails"
    return np.array([*states, env.data.qpos.copy()])


def minari(path: Path, *recordings: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for number, states in enumerate(recordings):
            seen = np.zeros((len(states), 59))
            seen[:, :9], seen[:, 18:39] = states[:, :9], states[:, 9:]
            file[f"episode_{number}/observations/observation"] = seen
            file[f"episode_{number}/actions"] = np.zeros((len(states) - 1, 9))
    return path


def r3m(path: Path, *recordings: np.ndarray) -> Path:
    paths = [
        {
            "observations": np.concatenate(
                [states[:, :9], states[:, humans.R3M_OBJECTS], np.ones((len(states), 12))], 1
            ),
            "actions": np.zeros((len(states), 9)),
            "rewards": np.zeros(len(states)),
            "env_infos": {"solved": np.array([False, True]), "note": "kitchen_light_on-v3"},
        }
        for states in recordings
    ]
    path.write_bytes(pickle.dumps(paths))
    return path


@pytest.mark.parametrize("write", [minari, r3m])
def test_what_people_did_can_be_done_again(
    write: object, tmp_path: Path, light: np.ndarray, slide: np.ndarray
) -> None:
    """The labels, played open loop from the same state, lead the hand the same way."""
    path = write(tmp_path / ("main_data.hdf5" if write is minari else "demos.pickle"), light, slide)  # type: ignore[operator]
    for episode in KITCHEN.demonstrations(path, ["light-on", "slide-door-open"], CONFIG, 5):
        task, states = (
            episode.provenance.task,
            light if episode.provenance.task == "light-on" else slide,
        )
        assert episode.success and episode.rewards.sum() == episode.rewards[-1] == 1
        assert len(episode) == len(states) - 1 and episode.instruction == SKILLS[task].instruction
        assert episode.provenance.source == "human" and np.abs(episode.actions).max() <= 1
        env, hand, way = at_rest(task), at_rest(task), 0.0
        for action, here, there in zip(episode.actions, states, states[1:], strict=False):
            env.step(action)
            hand.show(here)
            before = hand.arm.position
            hand.show(there)
            way += np.linalg.norm(hand.arm.position - before)
            assert (
                np.linalg.norm(env.arm.position - hand.arm.position) < 0.02 + 0.15 * way
            )  # errors add up


def test_pictures_are_those_of_the_recorded_states(tmp_path: Path, light: np.ndarray) -> None:
    episode = next(
        iter(KITCHEN.demonstrations(minari(tmp_path / "a.hdf5", light), ["light-on"], CONFIG, 1))
    )
    env = at_rest("light-on")
    for t in (0, len(light) // 2):
        env.show(light[t])
        assert np.array_equal(episode.images[t], env.picture(32))
    assert not np.array_equal(episode.images[0], episode.images[-1])


def test_what_was_done_before_is_cut_off(
    tmp_path: Path, light: np.ndarray, slide: np.ndarray
) -> None:
    after = slide.copy()
    after[:, 17] = light[-1, 17]  # the light stays on
    piece = humans.cut(np.concatenate([light, after]), SKILLS["slide-door-open"], 80)
    assert piece is not None and len(piece) == 1 + len(
        slide
    )  # from the moment at which the light stood still
    assert np.array_equal(piece[0], light[-1]) and np.array_equal(piece[1:], after)
    short = humans.cut(slide, SKILLS["slide-door-open"], 20)
    assert short is not None and len(short) == 21 and np.array_equal(short[-1], slide[-1])
    assert humans.cut(light, SKILLS["knob-on"], 80) is None


def test_a_set_that_lacks_a_task_says_what_it_has(tmp_path: Path, light: np.ndarray) -> None:
    path = minari(tmp_path / "main_data.hdf5", light)
    with pytest.raises(UserError, match=r"shows no left-door-open; it has light-on \(1\)"):
        KITCHEN.demonstrations(path, ["light-on", "left-door-open"], CONFIG, 1)
    with pytest.raises(UserError, match="people never showed slide-door-open-red"):
        KITCHEN.demonstrations(path, ["slide-door-open-red"], CONFIG, 1)


def test_pickles_of_old_numpy_can_be_read(tmp_path: Path, light: np.ndarray) -> None:
    path = r3m(tmp_path / "demos.pickle", light)
    old = pickle.dumps(pickle.loads(path.read_bytes()), protocol=2)
    assert b"numpy._core.multiarray" in old
    path.write_bytes(old.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert len(list(KITCHEN.demonstrations(path, ["light-on"], CONFIG, 1))) == 1


class Trap:
    """What a malicious pickle holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


def test_a_pickle_never_runs_code(tmp_path: Path) -> None:
    (tmp_path / "demos.pickle").write_bytes(
        pickle.dumps([{"observations": Trap(tmp_path / "harm")}])
    )
    with pytest.raises(UserError, match=r"is refused: it holds more than arrays \(posix.mkdir\)"):
        KITCHEN.demonstrations(tmp_path / "demos.pickle", ["light-on"], CONFIG, 1)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.pickle", b"not a pickle", "is not one of R3M's pickles"),
        ("x.pickle", pickle.dumps([{"actions": 1}]), "is not one of R3M's pickles"),
        ("x.pickle", pickle.dumps([{"observations": np.zeros((4, 5))}]), r"observations \[4, 5\]"),
        ("x.pickle", pickle.dumps([{"observations": np.full((4, 40), np.nan)}]), "finite"),
        ("x.hdf5", b"not hdf5", "no Minari dataset"),
        ("x.csv", b"1,2", "of no kind that is known here"),
    ],
)
def test_other_files_get_one_line(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=expected):
        KITCHEN.demonstrations(tmp_path / name, ["light-on"], CONFIG, 1)


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no demonstrations"):
        KITCHEN.demonstrations(tmp_path, ["light-on"], CONFIG, 1)


def test_the_command_imports_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], light: np.ndarray
) -> None:
    shown, out = tmp_path / "shown", tmp_path / "demos"
    shown.mkdir()
    r3m(shown / "kitchen_light_on-v3.pickle", light, light)
    argv = [
        "collect",
        "kitchen",
        "--demonstrations",
        str(shown),
        "--out",
        str(out),
        "--env.image-size",
        "32",
    ]
    for most, expected in ((1, 1), (5, 2), (5, 2)):
        assert main([*argv, "--tasks", "light-on", "--expert.episodes", str(most)]) == 0
        assert f"{expected} episodes of 1 tasks" in capsys.readouterr().out
    assert [info.provenance.source for info in EpisodeStore(out).episodes] == ["human", "human"]
    assert main([*argv, "--tasks", "microwave-open"]) == 2
    assert "shows no microwave-open" in capsys.readouterr().err
    other = [
        "collect",
        "pointmass",
        "--demonstrations",
        str(shown),
        "--out",
        str(tmp_path / "other"),
    ]
    assert main(other) == 2 and not (tmp_path / "other").exists()
    assert "no recordings of people are known for pointmass" in capsys.readouterr().err
