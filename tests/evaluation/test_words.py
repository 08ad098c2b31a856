"""What a policy is told: the right words, none, another task's, its own in another spelling."""

from pathlib import Path

import pytest

from irevla.config import EnvConfig, ModelConfig
from irevla.envs.suite import load_suite
from irevla.errors import UserError
from irevla.evaluation.evaluate import WORDS, Protocol, evaluate_policy
from irevla.evaluation.saved import evaluate_saved
from irevla.models.policy import VLAPolicy, build_policy
from irevla.types import Features, Observation

POINTMASS = load_suite("pointmass")
TASKS = ("left-disc", "right-disc")
ENV = EnvConfig(image_size=32, horizon=3, workers=1, envs_per_worker=2)
MODEL = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)
OWN = [POINTMASS.task(task).instruction for task in TASKS]


def small_policy(size: int = 32) -> VLAPolicy:
    return build_policy(MODEL, action_dim=2, image_size=size)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("right", OWN),
        ("empty", [" ", " "]),
        ("another", OWN[::-1]),
        ("punctuated", [f"{own.upper()}!" for own in OWN]),
    ],
)
def test_it_is_told_just_that(words: str, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert words in WORDS
    policy = small_policy()
    heard: list[str] = []
    encode = policy.encode

    def listening(observation: Observation) -> Features:
        heard.extend(observation.instructions)
        return encode(observation)

    monkeypatch.setattr(policy, "encode", listening)
    protocol = Protocol(POINTMASS, TASKS, ENV, episodes=2, seed=0, words=words)
    evaluation = evaluate_policy(policy, protocol, method="irevla", stage="sft")
    assert set(heard) == set(told)
    assert [row.task for row in evaluation.rows] == list(TASKS)  # what counts stays the task's own


def test_one_task_alone_has_no_others_words() -> None:
    protocol = Protocol(POINTMASS, TASKS[:1], ENV, episodes=2, seed=0, words="another")
    with pytest.raises(UserError, match="name more tasks"):
        protocol.jobs()


def test_a_policy_that_says_nothing_acts_as_is_usual_on_the_suite(tmp_path: Path) -> None:
    small_policy().save_pretrained(tmp_path / "policy")
    rows = evaluate_saved(
        tmp_path / "policy", TASKS, episodes=1, seed=0, suite="pointmass", words="empty"
    )
    assert [row.method for row in rows] == ["irevla, empty words"] * 2
    with pytest.raises(UserError, match="--suite"):
        evaluate_saved(tmp_path / "policy", TASKS, episodes=1, seed=0)
