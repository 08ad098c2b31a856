"""Somebody's environment and somebody's dataset, from the command line: Algorithm 1 runs on them,
repeats itself, and refuses what does not fit before there is a directory."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from others_env import Slider
from recorded import record
from test_gym_suite import INSTRUCTION, SLIDER

from irevla.cli.main import main
from irevla.config import EnvConfig
from irevla.data.dataset import Dataset
from irevla.data.episodes import EpisodeStore
from irevla.envs.suite import load_suite
from irevla.evaluation.blind_data import blind_rates, fitting
from irevla.evaluation.evaluate import Evaluation, Played, Protocol, rows_of
from irevla.storage import disk
from irevla.storage.journal import read_lines

EPISODES = 12


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a person demonstrated, in the environment's own units."""
    root = tmp_path_factory.mktemp("recorded") / "slides"
    env = Slider()
    episodes = []
    for seed in range(EPISODES):
        seen, _ = env.reset(seed=seed)
        images, actions, ended = [], [], False
        while not ended:
            images.append(seen["pixels"]["top"])
            actions.append(env.expert())
            seen, _, ended, _, _ = env.step(actions[-1])
        episodes.append((np.stack(images), np.stack(actions)))
    record(root, episodes, instruction="Move to the mark.", fps=10)
    return root


@pytest.fixture
def command(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coarse_plots: None
) -> list[str]:
    monkeypatch.setenv(disk.CACHE, str(tmp_path / "cache"))
    settings = tmp_path / "slider.yaml"
    settings.write_text(yaml.safe_dump(SLIDER, sort_keys=False))
    return f"""run pointmass --suite gym:{settings} --expert.dataset {recorded} --threads 1
        --env.action-repeat 1 --env.horizon 12 --env.workers 1
        --model.width 32 --model.head-groups 4 --model.head-hidden 16
        --sft.steps 12 --sft.batch 16 --sft.validate-every 12
        --ppo.steps 64 --ppo.rollout 8 --ppo.minibatch 16 --ppo.warmup 1
        --harvest.episodes 2 --harvest.attempts 4 --sl.steps 4 --sl.batch 8
        --sl.validate-every 4 --eval.episodes 4 --eval.interim 2""".split()


def results(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "results.json").read_text()))


@pytest.mark.timeout(300)
def test_algorithm_1_on_what_is_not_ours(command: list[str], tmp_path: Path) -> None:
    first = tmp_path / "first"
    again = tmp_path / "again"
    for out in (first, again):
        assert main([*command, "--out", str(out)]) == 0
    rows = [{**row, "seconds": 0} for row in results(first)["rows"]]
    assert rows == [{**row, "seconds": 0} for row in results(again)["rows"]]
    tasks = {"slide", "slide-dark", "slide-black"}
    stages = {row["stage"] for row in rows}
    assert stages == {"baseline", "sft", "rl:slide-dark", "sl:slide-dark"}
    blind = {row["task"] for row in rows if row["method"] == "blind-replay"}
    assert blind == tasks, "the demonstrations are replayed: their instruction is that of all tasks"
    (dataset,) = [
        event for event in read_lines(first / "journal.jsonl") if event["event"] == "dataset"
    ]
    assert f"slide {EPISODES}; success is not recorded" in dataset["note"]
    videos = {path.stem for path in (first / "videos").glob("*.mp4")}
    assert videos == tasks


def test_the_recorded_actions_solve_what_they_were_recorded_in(
    command: list[str], tmp_path: Path
) -> None:
    """A wrong scale would not: half of the marks are far away."""
    settings = tmp_path / "slider.yaml"
    still = {"slide": {"category": "expert", "instruction": INSTRUCTION}}
    still |= {"other": {"category": "rl", "instruction": INSTRUCTION}}
    still |= {"unseen": {"category": "unseen", "instruction": "do nothing"}}
    settings.write_text(yaml.safe_dump({**SLIDER, "tasks": still}, sort_keys=False))
    out = tmp_path / "run"
    few = ["--method", "sft", "--eval.no-videos", "--eval.episodes", "40"]
    assert main([*command, *few, "--out", str(out)]) == 0
    rows = {row["task"]: row for row in results(out)["rows"] if row["method"] == "blind-replay"}
    assert set(rows) == {"slide", "other"}, "nobody demonstrated the unseen one"
    assert 4 <= rows["slide"]["successes"] <= 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--expert.dataset", ""], "no scripted expert: name a LeRobotDataset"),
        (["--expert.dataset", "/nowhere"], "no dataset /nowhere"),
        (["--env.action-repeat", "2"], "10 frames a second.*5 times.*--expert.stride 2"),
        (["--expert.camera", "wrist"], "unknown camera"),
        (["--expert-tasks", "slide-down"], "unknown task"),
        (["--suite", "pointmass"], "of 1 dimensions, and pointmass takes 2"),
    ],
)
def test_before_any_work(
    options: list[str],
    message: str,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*command, *options, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(message, said), said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slider.yaml"]


@pytest.mark.parametrize(
    ("asked", "done"),
    [
        ([], (1, 100, "10 decisions a second, at most 100")),  # as it was recorded
        (["--env.action-repeat", "2", "--env.horizon", "7"], (2, 7, "5 decisions a second")),
    ],
)
def test_blind_replay_for_a_page_is_as_fast_as_the_run(
    asked: list[str],
    done: tuple[int, int, str],
    command: list[str],
    recorded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It held each second action for two steps, whatever the run was to do."""
    repeat, horizon, said = done
    environments = []

    def replay(shown: Any, protocol: Protocol) -> Evaluation:
        environments.append(protocol.env)
        return Evaluation(rows_of([Played("slide", 0, True, 3)], protocol, method="", stage=""), {})

    monkeypatch.setattr("irevla.evaluation.blind_data.evaluate_blind_replay", replay)
    page = tmp_path / "page.html"
    suite = command[command.index("--suite") + 1]
    assert main(["data", str(recorded), "--page", str(page), "--suite", suite, *asked]) == 0
    (env,) = environments
    assert (env.action_repeat, env.horizon) == (repeat, horizon) and said in page.read_text()


def test_a_page_gives_the_longest_episode_its_time(tmp_path: Path) -> None:
    images = np.zeros((130, 20, 40, 3), np.uint8)
    record(tmp_path / "long", [(images, np.zeros((130, 1)))], instruction="slide", fps=5)
    settings = tmp_path / "slider.yaml"
    settings.write_text(yaml.safe_dump(SLIDER, sort_keys=False))
    env = fitting(Dataset(tmp_path / "long"), load_suite(f"gym:{settings}"), EnvConfig())
    assert (env.action_repeat, env.horizon) == (2, 130)


def test_nothing_can_be_collected(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = command[command.index("--suite") + 1]
    assert main(["collect", suite, "--out", str(tmp_path / "data")]) == 2
    assert "no scripted expert" in capsys.readouterr().err


def test_a_scripted_expert_collects(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its demonstrations are D_e of a run, which replays them with closed eyes; so does
    `irevla data`, which scaled their actions once more."""
    settings = tmp_path / "slider.yaml"
    with settings.open("a") as file:
        print("expert: others_env:expert", file=file)
    suite = command[command.index("--suite") + 1]
    env = command[command.index("--env.action-repeat") :][:6]
    demos = tmp_path / "demos"
    few = ["--env.image-size", "32", "--expert.episodes", "4", "--out", str(demos)]
    assert main(["collect", suite, *env, *few]) == 0
    replayed = {}

    def replay(shown: dict[str, list[np.ndarray]], protocol: Protocol) -> Evaluation:
        replayed.update(shown)
        return Evaluation([], {})

    with monkeypatch.context() as patched:
        patched.setattr("irevla.evaluation.blind_data.evaluate_blind_replay", replay)
        blind_rates(Dataset(demos), load_suite(suite), env=EnvConfig(action_repeat=1), episodes=1)
    for actions, episode in zip(replayed["slide"], EpisodeStore(demos), strict=True):
        np.testing.assert_array_equal(actions, episode.actions)
    out = tmp_path / "run"
    learnt = ["--method", "sft", "--eval.no-videos", "--expert.dataset", str(demos)]
    assert main([*command, *learnt, "--out", str(out)]) == 0
    rows = results(out)["rows"]
    assert {row["method"] for row in rows} == {"blind-replay", "sft"}
