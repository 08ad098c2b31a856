"""A classifier of images learns when a toy task is done, from labelled files alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irevla.cli.main import main
from irevla.config import EnvConfig, ModelConfig
from irevla.data.mixture import held_out
from irevla.envs.pointmass import POINTMASS
from irevla.errors import UserError
from irevla.models.policy import build_policy
from irevla.robot.classifier import FEWEST, MIXTURE, STRETCH, Classifier, labelled

CONFIG = EnvConfig(image_size=32, horizon=25)
INSTRUCTION = "reach the left disc"


def images_of(seeds: range) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What is seen on the way to the disc, and at it."""
    env = POINTMASS.make("left-disc", CONFIG)
    failures, successes = [], []
    for seed in seeds:
        env.reset(seed=seed)
        over = False
        while not over:
            seen, _, over, _, _ = env.step(env.expert_action())
            (successes if over else failures).append(seen)
    return failures, successes


def write(folder: Path, images: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    failures, successes = images_of(range(120))
    write(tmp_path / "frames/failure", failures[:300])
    write(tmp_path / "frames/success", successes)
    return tmp_path / "frames"


def test_the_command_trains_one_that_is_right_about_new_episodes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = build_policy(
        ModelConfig(vlm="tiny-random", width=64, layers=1), action_dim=2, image_size=32
    )
    before = policy.hash()
    policy.save_pretrained(tmp_path / "policy")
    command = [
        "classifier",
        str(folder),
        "--policy",
        str(tmp_path / "policy"),
        "--instruction",
        INSTRUCTION,
    ]
    command += ["--steps", "250", "--out"]
    assert (
        main([*command, str(tmp_path / "policy")]) == 2
        and "is there already" in capsys.readouterr().err
    )
    assert main([*command, str(tmp_path / "classifier")]) == 0
    classifier = Classifier(tmp_path / "classifier")
    failures, successes = images_of(range(1000, 1040))
    assert np.mean([classifier(seen, INSTRUCTION) for seen in successes]) >= 0.85
    assert np.mean([classifier(seen, INSTRUCTION) for seen in failures]) <= 0.05
    assert policy.from_pretrained(tmp_path / "policy").hash() == before
    with pytest.raises(UserError, match="a policy, not a classifier"):
        Classifier(tmp_path / "policy")


def test_some_of_both_labels_are_held_out_in_stretches(folder: Path) -> None:
    frames = labelled(folder, INSTRUCTION, 32)
    out = held_out(frames.episode, MIXTURE.validation, store="expert")
    assert {frames.task[out].min(), frames.task[out].max()} == {0, 1} and not out.all()
    for label in (0, 1):
        assert out[frames.task == label].sum() in range(STRETCH, (frames.task == label).sum() // 3)
    assert (frames.actions[frames.task == 1] == 1).all() and (
        frames.actions[frames.task == 0] == -1
    ).all()


def test_too_few_or_broken_images_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "success/0000.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"0000\.png is not an image"):
        labelled(folder, INSTRUCTION, 32)
    for path in sorted((folder / "success").iterdir())[FEWEST - 1 :]:
        path.unlink()
    with pytest.raises(UserError, match=f"success has {FEWEST - 1} images"):
        labelled(folder, INSTRUCTION, 32)
