"""What an experiment keeps of its tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from irevla import setting
from irevla.category import Category
from irevla.config import EnvConfig, ModelConfig
from irevla.envs.base import load_suite
from irevla.errors import UserError
from irevla.evaluation.stats import Row
from irevla.models.build import build_policy
from irevla.presets import find_preset
from irevla.runs.run import open_run
from irevla.setting import choose_tasks, strange_words

MODEL = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)


def played(task: str, episodes: int) -> Row:
    return Row.of(
        method="irevla", task=task, category=Category.RL, stage="sft", seed=0,
        successes=1, episodes=episodes, env_steps=5, seconds=1.0,
    )  # fmt: skip


def test_practice_is_never_longer_than_evaluation() -> None:
    assert [
        EnvConfig(horizon=80, rl_horizon=most).practising().horizon for most in (0, 45, 90)
    ] == [80, 45, 80]
    with pytest.raises(UserError, match=r"env\.rl_horizon"):
        EnvConfig(rl_horizon=-1)


@pytest.mark.parametrize(("preset", "calls"), [("panda", 4), ("pointmass", 2)])
def test_where_a_person_must_watch_a_test_goes_on_where_it_was(
    preset: str, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, asked = find_preset(preset), list[Sequence[str]]()

    def evaluate(
        actor: object, suite: str, tasks: Sequence[str], *, episodes: int, **more: Any
    ) -> list[Row]:
        asked.append(tasks)
        if len(asked) == calls // 2:
            raise KeyboardInterrupt
        return [played(task, episodes) for task in tasks]

    def admit(suite: str, policy: object, env: EnvConfig) -> EnvConfig:
        return env

    policy = build_policy(MODEL, action_dim=2, image_size=32, device=torch.device("cpu"))
    monkeypatch.setattr(setting, "evaluate", evaluate)
    monkeypatch.setattr(setting, "admitted", admit)
    with open_run(tmp_path, config) as run:
        tasks = choose_tasks(config, load_suite(config.suite))
        with pytest.raises(KeyboardInterrupt):
            setting.test(run, policy, tasks, "sft", 3)
        setting.test(run, policy, tasks, "sft", 3)
        setting.test(run, policy, tasks, "sft", 3)
        done = run.journal.done("evaluated sft")
    first, second, third = "pick-red-block", "pick-carrot", "pick-banana"
    expected = (
        [(first,), (second,), (second,), (third,)] if preset == "panda" else [tasks.all, tasks.all]
    )
    assert asked == expected
    assert done is not None and [row["task"] for row in done["rows"]] == list(tasks.all)


def test_words_put_into_instructions_are_no_tasks_own() -> None:
    """What is told of an unseen task is never trained on, not even by chance."""
    words = set(strange_words("panda-sim"))
    assert len(words) > 1000 and {"cat", "lemon"} <= words
    told = {word for task in load_suite("panda-sim").tasks for word in task.instruction.split()}
    assert {"pear", "banana", "red", "drawer"} <= told and not words & told
