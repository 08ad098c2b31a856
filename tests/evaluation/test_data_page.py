"""`irevla data --page`: what is in a dataset as one page that needs nothing else."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recorded import (
    IMAGES,
    VIDEOS,
    as_v21,
    copied,
    edit_info,
    record,
    set_action,
    shown,
    write_second_task,
)

from irevla.cli.main import main
from irevla.data.camera import find_camera, pick
from irevla.data.dataset import Dataset
from irevla.envs.suite import load_suite
from irevla.errors import UserError
from irevla.evaluation import data_page
from irevla.evaluation.blind_data import blind_rates
from irevla.evaluation.evaluate import Evaluation, Protocol
from irevla.presets import PRESETS


def written(root: Path, to: Path) -> str:
    return data_page.write_data_page(Dataset(root), to / "page.html").read_text()


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r'<img src="data:image/\w+;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = written(VIDEOS, tmp_path)
    links = re.findall(r'(?:src|href|srcset)="([^"]*)"', page)
    assert links and all(link.startswith("data:") for link in links)
    assert "http" not in page and "4 episodes of 2 tasks" in page
    assert "Episodes that failed, and would be left out: 1." in page
    assert page.count("<svg") == 5  # two actions, three numbers of the state


@pytest.mark.parametrize("source", [IMAGES, "v2.1"])
def test_each_image_is_that_of_its_frame(tmp_path: Path, source: Path | str) -> None:
    root = as_v21(IMAGES, tmp_path / "old") if source == "v2.1" else IMAGES
    found = pictures(written(root, tmp_path))
    # Of each task the first episode, 0 with 8 frames and 1 with 9, in the order of appearance.
    wanted = [shown(0, 0), shown(0, 3), shown(0, 7), shown(1, 0), shown(1, 4), shown(1, 8)]
    assert [tuple(image[16, 8, :2].tolist()) for image in found] == wanted
    assert found[0].shape == (32, 48, 3)


def test_images_of_videos_in_the_order_that_was_asked_for() -> None:
    dataset = Dataset(VIDEOS)
    episodes = dataset.episodes
    front = find_camera(dataset, "front")
    images = pick(dataset, front, [(episodes[2], (4, 1)), (episodes[0], (2,))])
    wanted = np.array([shown(2, 4), shown(2, 1), shown(0, 2)])
    found = np.array([image[16, 8, :2] for image in images]).astype(int)
    assert np.abs(found - wanted).max() <= 4


def test_large_images_become_small(tmp_path: Path) -> None:
    large = np.zeros((3, 480, 640, 3), np.uint8)
    record(tmp_path / "large", [(large, np.zeros((3, 1)))], instruction="look", fps=10)
    page = written(tmp_path / "large", tmp_path)
    assert pictures(page)[0].shape == (240, 320, 3) and "image/jpeg" in page


def test_what_is_wrong_with_it_stands_above(tmp_path: Path) -> None:
    root = copied(IMAGES, tmp_path / "data")
    set_action(root, 3, [float("nan"), 7.0])
    page = written(root, tmp_path)
    assert "Not finite in some frames: x." in page
    assert "Actions outside −1 to 1: y." in page and "Success is not recorded" in page
    same = [(np.zeros((9, 16, 16, 3), np.uint8), np.linspace(0, 1, 9)[:, None])] * 3
    record(tmp_path / "same", same, instruction="again <b>&", fps=10)
    page = written(tmp_path / "same", tmp_path)
    assert "Episodes hardly differ (again &lt;b&gt;&amp;)" in page and "<b>&" not in page


def test_blind_replay_in_a_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the demonstrations go the right way."""
    env = PRESETS["pointmass"][1].env
    root = tmp_path / "data"
    command = ["collect", "pointmass", "--tasks", "left-disc", "right-disc", "--out", str(root)]
    few = ["--expert.episodes", "6", "--expert.noisy-fraction", "0", "--env.workers", "1"]
    assert main([*command, *few]) == 0
    page = tmp_path / "page" / "data.html"
    asked = ["data", str(root), "--page", str(page), "--suite", "pointmass", "--episodes", "4"]
    assert main(asked) == 0
    assert f"page: {page}" in capsys.readouterr().out
    text = page.read_text()
    found = re.findall(r"blind replay in ([\w-]+): <b>([\d.]+)</b> \[[\d., ]+\] (\d)/4", text)
    names = {name for name, _, _ in found}
    instructions = {"reach the left disc", "reach the right disc"}
    tasks = load_suite("pointmass").tasks
    assert names == {task.name for task in tasks if task.instruction in instructions}
    assert all(float(rate) == pytest.approx(int(solved) / 4, abs=0.01) for _, rate, solved in found)
    again = blind_rates(Dataset(root), load_suite("pointmass"), env=env, episodes=4)
    assert {each.task: str(each.successes) for each in again} == {n: s for n, _, s in found}


def test_two_ways_to_write_an_instruction_are_one_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demonstrations of both are replayed, as both would be learnt from."""
    episodes = [(np.zeros((4, 16, 16, 3), np.uint8), np.full((4, 2), n / 4)) for n in range(4)]
    record(tmp_path / "data", episodes, instruction="Reach the left disc.", fps=10)
    write_second_task(tmp_path / "data", "reach  the LEFT disc .", 2)
    dataset = Dataset(tmp_path / "data")
    assert [len(found) for found in dataset.by_instruction.values()] == [4]
    page = written(tmp_path / "data", tmp_path)
    assert "4 episodes of 1 task<" in page and "<h3>Reach the left disc.</h3>" in page
    replayed = {}

    def replay(shown: Mapping[str, Sequence[np.ndarray]], protocol: Protocol) -> Evaluation:
        replayed.update(shown)
        return Evaluation([], {})

    monkeypatch.setattr("irevla.evaluation.blind_data.evaluate_blind_replay", replay)
    env = PRESETS["pointmass"][1].env
    blind_rates(dataset, load_suite("pointmass"), env=env, episodes=1)
    assert [actions[0, 0] for actions in replayed["left-disc"]] == [0, 0.25, 0.5, 0.75]


def test_no_stride_makes_the_rate(tmp_path: Path) -> None:
    """It was replayed all the same, half as fast again."""
    images = np.zeros((3, 16, 16, 3), np.uint8)
    episodes = [(images, np.zeros((3, 2)))]
    record(tmp_path / "data", episodes, instruction="reach the left disc", fps=15)
    with pytest.raises(UserError, match="15 frames a second, and pointmass decides 10 times"):
        blind_rates(
            Dataset(tmp_path / "data"), load_suite("pointmass"), env=PRESETS["pointmass"][1].env,
            episodes=1,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "pointmass"], "name a file as --page"),
        (["--page", "p.html", "--suite", "pointmas"], "did you mean 'pointmass'"),
        (["--page", "p.html", "--suite", "kitchen"], "no task of kitchen has an instruction"),
        (["--page", "p.html", "--episodes", "0"], "at least 1"),
        (["--page", str(IMAGES / "meta" / "info.json")], "name a file .html, not"),
        (["--page", "p.html", "--env.horizon", "9"], "--env is for blind replay: name a --suite"),
        (["--page", "p.html", "--suite", "pointmass", "--env.horizon", "-9"], "must be positive"),
    ],
)
def test_bad_input(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", str(IMAGES), *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not Path("p.html").exists()


def test_actions_of_another_suite_are_refused(tmp_path: Path) -> None:
    images = np.zeros((3, 16, 16, 3), np.uint8)
    record(
        tmp_path / "three", [(images, np.zeros((3, 3)))], instruction="reach the left disc", fps=10
    )
    with pytest.raises(UserError, match="actions of 3 dimensions, and pointmass takes 2"):
        blind_rates(
            Dataset(tmp_path / "three"), load_suite("pointmass"), env=PRESETS["pointmass"][1].env,
            episodes=1,
        )  # fmt: skip


@pytest.mark.parametrize("far", [5.0, np.nan])
def test_actions_of_another_scale_are_refused(tmp_path: Path, far: float) -> None:
    """Not clipped: a rate of other actions would be told as the dataset's."""
    images = np.zeros((3, 16, 16, 3), np.uint8)
    actions = np.array([[0, 0], [0, far], [0, 0]])
    record(tmp_path / "far", [(images, actions)], instruction="reach the left disc", fps=10)
    with pytest.raises(UserError, match="actions of episode 0 are outside of what pointmass takes"):
        blind_rates(
            Dataset(tmp_path / "far"), load_suite("pointmass"), env=PRESETS["pointmass"][1].env,
            episodes=1,
        )  # fmt: skip


def test_a_damaged_image_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copied(VIDEOS, tmp_path / "data")
    next((root / "videos").rglob("*.mp4")).write_bytes(b"no video")
    assert main(["data", str(root), "--page", str(tmp_path / "page.html")]) == 2
    assert "broken or no video" in capsys.readouterr().err
    edit_info(root, codebase_version="v1.0")
    assert not (tmp_path / "page.html").exists()
