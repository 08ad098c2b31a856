"""The robot's state, from the environment to the heads and on disk."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from recorded import IMAGES, copied, set_column
from test_gym_suite import ENV, described, made, suite

import irevla
from irevla.algorithm import run_algorithm
from irevla.cli.main import main
from irevla.config import (
    AugmentConfig,
    Config,
    EnvConfig,
    EvalConfig,
    ExpertConfig,
    HarvestConfig,
    ModelConfig,
    PPOConfig,
    SACConfig,
    SFTConfig,
)
from irevla.data import lerobot
from irevla.data.demonstrated import Demonstrated, Wanted
from irevla.data.episodes import EpisodeStore
from irevla.data.replay import reopen
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.errors import UserError
from irevla.learners.ppo import PPO
from irevla.learners.sac import SAC
from irevla.models.policy import VLAPolicy, build_policy
from irevla.models.state_scale import FAR, StateScale
from irevla.runs.run import open_run
from irevla.types import Features, Observation

pytestmark = pytest.mark.usefixtures("coarse_plots")
SUPERVISED = SFTConfig(
    steps=60, batch=32, validate_every=60, warmup=5, augment=AugmentConfig(shift=0)
)
TOLD = Config(
    suite="pointmass",
    threads=1,
    expert_tasks=("left-disc",),
    rl_tasks=("left-disc-new",),
    unseen_tasks=("left-square-orange",),
    env=EnvConfig(image_size=32, horizon=12, workers=2, envs_per_worker=2, state=True),
    expert=ExpertConfig(episodes=6),
    model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
    sft=SUPERVISED,
    ppo=PPOConfig(steps=64, rollout=8, minibatch=16, warmup=1, checkpoint_every=1, std=0.6),
    sac=SACConfig(
        steps=60, demonstrations=1, attempts=200, gripper=False, batch=8, utd=1, critics=2,
        warmup=2, checkpoint_every=4, updates_per_decision=0.5, std=0.6,
    ),
    harvest=HarvestConfig(episodes=1, attempts=60),
    sl=replace(SUPERVISED, steps=4, validate_every=4),
    eval=EvalConfig(episodes=2, interim=0, videos=False),
)  # fmt: skip


def play(directory: Path, config: Config) -> VLAPolicy:
    with open_run(directory, config) as run:
        return run_algorithm(run)


@pytest.mark.parametrize("rl", ["ppo", "sac"])
def test_algorithm_1_with_it_and_stopped_on_the_way(
    rl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TOLD, rl=rl, rounds=2 if rl == "sac" else 1)
    policy = play(tmp_path / "whole", config)
    assert policy.state_dim == 2

    expert = EpisodeStore(tmp_path / "whole" / "expert")
    frames = expert.read()
    assert frames.state.shape == (len(frames), 2) and np.ptp(frames.state, 0).min() > 0.1
    torch.testing.assert_close(
        policy.state_scale.mean, torch.from_numpy(frames.state.mean(0)), atol=1e-5, rtol=1e-5
    )
    info = json.loads((tmp_path / "whole/expert" / lerobot.INFO_PATH).read_text())
    assert info["features"][lerobot.STATE] == {"dtype": "float32", "shape": [2], "names": None}

    kind = PPO if rl == "ppo" else SAC
    update = kind.update

    def interrupted(self: Any, *batch: Any) -> Any:
        if self.updates == 1:
            raise KeyboardInterrupt
        return update(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            play(tmp_path / "stopped", config)
    assert play(tmp_path / "stopped", config).hash() == policy.hash()

    if rl == "sac":  # the second round begins with successes of D_RL, states and all
        store = reopen(tmp_path / "whole/latents/left-disc-new@2/demonstrations")
        assert store.spec.state_dim == 2
        first = EpisodeStore(tmp_path / "whole" / "online")[0]
        expected = policy.state_scale(torch.from_numpy(first.state))
        found = store.features(np.arange(len(first))).state
        torch.testing.assert_close(found, expected)


def test_a_policy_says_what_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = play(tmp_path / "run", replace(TOLD, method="sft"))
    policy.save_pretrained(tmp_path / "saved")
    again = VLAPolicy.from_pretrained(tmp_path / "saved")
    assert again.hash() == policy.hash() and again.state_dim == 2
    image = np.zeros((32, 32, 3), np.uint8)
    acts = [again.act(image, "reach the left disc", np.array(at)) for at in ([0, 0], [0.5, -0.5])]
    assert np.abs(acts[0] - acts[1]).max() > 1e-4, "the state counts"
    batch = again.act(np.stack([image, image]), "reach the left disc", np.array([[0, 0], [9, 9]]))
    np.testing.assert_allclose(batch[0], acts[0], atol=1e-5)
    with pytest.raises(UserError, match="is told 2 numbers of the robot's state, not 0"):
        again.act(image, "reach the left disc")

    rows = irevla.evaluate(again, "pointmass", tasks=["left-disc"], episodes=2)
    assert rows[0].episodes == 2
    command = ["eval", str(tmp_path / "saved"), "--suite", "pointmass", "--tasks", "left-disc"]
    assert main([*command, "--episodes", "1"]) == 0
    start = ["run", "pointmass", "--from-checkpoint", str(tmp_path / "saved"), "--env.image-size"]
    assert main([*start, "32", "--out", str(tmp_path / "other")]) == 2
    assert "is told 2 numbers of the robot's state, and pointmass tells 0" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "other").exists()


def test_a_dataset_without_it_is_none_for_who_is_told(tmp_path: Path) -> None:
    play(tmp_path / "plain", replace(TOLD, method="sft", env=replace(TOLD.env, state=False)))
    expert = replace(TOLD.expert, dataset=str(tmp_path / "plain" / "expert"))
    with pytest.raises(UserError, match="was made with state_dim = 0, but 2 is wanted"):
        irevla.run(replace(TOLD, expert=expert), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_state_nothing_has_changed() -> None:
    policy = build_policy(TOLD.model, action_dim=2, image_size=32)
    assert not [name for name in policy.state_dict() if "state" in name]
    assert Features(torch.zeros(3, 2, 4), torch.ones(3, 2, dtype=torch.bool)).state.shape == (3, 0)


def test_it_stays_with_its_image() -> None:
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((4, 2, 2, 3), np.uint8)
    seen = Observation.of(images, list("abcd"), np.arange(4, dtype=np.float32)[:, None])
    joined = Observation.cat([seen[[3, 1]], seen[:1]])
    assert joined.state[:, 0].tolist() == joined.images[:, 0, 0, 0].tolist() == [3, 1, 0]
    with pytest.raises(AssertionError, match="one state for each image"):
        Observation(seen.images, seen.instructions, torch.zeros(3, 1))
    latents = Features(torch.zeros(4, 2, 4), torch.ones(4, 2, dtype=torch.bool), seen.state)
    parts = Features.cat([latents[2:], latents[[0]]]).rounded().float()
    assert parts.state[:, 0].tolist() == [2, 3, 0]


def test_the_scale() -> None:
    scale = StateScale(3)
    scale.fit(torch.tensor([[0.0, 5.0, -1.0], [2.0, 5.0, 1.0]]))
    found = scale(torch.tensor([[1.0, 5.0, 1.0], [500.0, 6.0, -500.0]]))
    # The second number never changes: it is shifted, and not blown up.
    assert found.tolist() == [[0, 0, 1], [FAR, 1, -FAR]]


@pytest.mark.parametrize("name", ["metaworld", "kitchen", "panda-sim", "pointmass"])
def test_what_the_robots_say(name: str) -> None:
    if name != "pointmass":
        pytest.importorskip("mujoco")
        pytest.importorskip({"metaworld": "metaworld"}.get(name, "gymnasium_robotics"))
    found = load_suite(name)
    env = found.make(found.tasks[0].name, EnvConfig(image_size=32)).unwrapped
    env.draw = False
    _, info = env.reset(seed=3)
    start = info["state"]
    assert start.dtype == np.float32 and start.shape == (len(found.state),)
    for _ in range(3):
        _, _, _, _, info = env.step(np.ones(found.action_dim, np.float32))
    assert np.isfinite(info["state"]).all() and np.abs(info["state"] - start).max() > 1e-3
    _, info = env.reset(seed=3)
    assert info["state"].tolist() == start.tolist()
    env.close()


def test_environments_of_others(tmp_path: Path) -> None:
    found = suite(tmp_path, state="state")
    assert found.state == ("state 0",)
    env = made(tmp_path, state="state")
    check_env(env, skip_render_check=True)
    _, info = env.reset(seed=1)
    assert info["state"].tolist() == pytest.approx([env._inner.unwrapped.place])
    config = replace(ENV, state=True, workers=1, envs_per_worker=1)
    with VectorEnv(found, config, iter([Job("slide", 0)]), authorization=None) as vec:
        result = vec.recv(0)
        assert 0.1 <= float(result.states[0, 0]) <= 0.9
        assert result.observation().state.tolist() == result.states.tolist()
    for state, message in [("stat", "has no state 'stat': there is"), ("pixels.top", "no vector")]:
        with pytest.raises(UserError, match=message):
            suite(tmp_path, state=state)
    plain = replace(TOLD, suite=described(tmp_path), expert_tasks=(), rl_tasks=(), unseen_tasks=())
    with pytest.raises(UserError, match=r"says nothing of its robot's state: --env\.no-state"):
        irevla.run(plain, out=tmp_path / "run")


def test_an_environment_that_says_nothing_though_it_promised(tmp_path: Path) -> None:
    found = replace(load_suite("pointmass"), state=("x", "y", "z"))
    job = Job("left-disc", 0)
    config = replace(TOLD.env, workers=1, envs_per_worker=1)
    with (
        pytest.raises(UserError, match=r"gives info\['state'\] = .* must give 3 finite numbers"),
        VectorEnv(found, config, iter([job]), authorization=None) as vec,
    ):
        vec.recv(0)


def test_datasets_of_others(tmp_path: Path) -> None:
    root = copied(IMAGES, tmp_path / "data")
    states = [[float(frame), 0.5, -1.0] for frame in range(35)]
    set_column(root / "data/chunk-000/file-000.parquet", lerobot.STATE, states)
    bounds = np.ones(2, np.float32)

    def opened(state_dim: int) -> Demonstrated:
        text = {"left": "reach the left disc", "right": "reach the right disc"}
        wanted = Wanted("toy", text, -bounds, bounds, 10.0, 16, state_dim=state_dim)
        return Demonstrated(root, wanted, camera="", stride=1)

    frames = opened(3).read()
    assert frames.state.shape == (35, 3)
    assert sorted(frames.state[:, 0].tolist()) == [float(frame) for frame in range(35)]
    assert opened(0).read().state.shape == (35, 0)
    assert opened(0).hash() != opened(3).hash()
    with pytest.raises(UserError, match=r"has 3 numbers in observation\.state, and toy says 7"):
        opened(7)
    states[4][1] = float("nan")
    set_column(root / "data/chunk-000/file-000.parquet", lerobot.STATE, states)
    with pytest.raises(UserError, match=r"observation\.state is not finite in frame 4"):
        opened(3)
