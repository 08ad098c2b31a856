"""Several cameras, from the environment to the VLM and on disk."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recorded import VIDEOS, colours
from test_gym_suite import ENV, suite
from two_cameras import TWO

import irevla
from irevla.cli.main import main
from irevla.config import AugmentConfig, EnvConfig, LoRAConfig
from irevla.data import lerobot
from irevla.data.augment import augment
from irevla.data.demonstrated import Demonstrated, Wanted
from irevla.data.episodes import EpisodeStore
from irevla.envs.suite import load_suite
from irevla.errors import UserError
from irevla.learners.ppo import PPO
from irevla.models.policy import VLAPolicy, build_policy
from irevla.types import Observation
from test_state import TOLD, play

pytestmark = pytest.mark.usefixtures("coarse_plots")
BOTH = ("plain", "mirror")
SEEING = replace(TOLD, suite="two_cameras:TWO", env=replace(TOLD.env, cameras=BOTH, state=False))


@pytest.mark.parametrize("rl", ["ppo", "sac"])
def test_algorithm_1_with_two_and_stopped_on_the_way(
    rl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SEEING, rl=rl)
    policy = play(tmp_path / "whole", config)
    assert policy.cameras == BOTH

    store = EpisodeStore(tmp_path / "whole" / "expert")
    images = store.read().images
    assert images.shape[1:] == (64, 32, 3)
    plain, mirror = lerobot.views(images, 2)
    np.testing.assert_array_equal(mirror, plain[:, :, ::-1])
    info = json.loads((tmp_path / "whole/expert" / lerobot.INFO_PATH).read_text())
    cameras = {key: f["shape"] for key, f in info["features"].items() if f["dtype"] == "image"}
    assert cameras == {f"observation.images.{name}": [32, 32, 3] for name in BOTH}, (
        "LeRobot sees two cameras"
    )
    assert EpisodeStore(tmp_path / "whole" / "expert").spec == store.spec

    if rl == "ppo":
        update = PPO.update

        def interrupted(self: Any, *batch: Any) -> Any:
            if self.updates == 1:
                raise KeyboardInterrupt
            return update(self, *batch)

        with monkeypatch.context() as patch:
            patch.setattr(PPO, "update", interrupted)
            with pytest.raises(KeyboardInterrupt):
                play(tmp_path / "stopped", config)
        assert play(tmp_path / "stopped", config).hash() == policy.hash()


def test_a_policy_says_what_it_sees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play(tmp_path / "run", replace(SEEING, method="sft"))
    policy = VLAPolicy.from_pretrained(tmp_path / "run")
    assert policy.cameras == BOTH
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    named = dict(zip(BOTH, pixels, strict=True))
    action = policy.act(named, "reach the left disc")
    np.testing.assert_array_equal(action, policy.act(np.concatenate(pixels), "reach the left disc"))
    swapped = {"plain": pixels[1], "mirror": pixels[0]}
    assert np.abs(action - policy.act(swapped, "reach the left disc")).max() > 1e-6
    for image, message in [
        ({"plain": pixels[0]}, "the policy sees plain, mirror, not plain"),
        (pixels[0], r"64 x 32 x 3 \(plain, mirror, one below the other\), not 32 x 32 x 3"),
    ]:
        with pytest.raises(UserError, match=message):
            policy.act(image, "reach the left disc")

    rows = irevla.evaluate(policy, "two_cameras:TWO", tasks=["left-disc"], episodes=2)
    assert rows[0].episodes == 2
    with pytest.raises(UserError, match=r"has one camera without a name: no --env\.cameras"):
        irevla.evaluate(policy, "pointmass", tasks=["left-disc"], episodes=2)
    start = ["run", "pointmass", "--from-checkpoint", str(tmp_path / "run"), "--env.image-size"]
    assert main([*start, "32", "--out", str(tmp_path / "other")]) == 2
    assert "sees plain, mirror, and is to see its one camera of pointmass" in (
        capsys.readouterr().err
    )


def test_tokens_of_both_are_joined_and_marked() -> None:
    policy = build_policy(SEEING.model, action_dim=2, image_size=32, cameras=BOTH).eval()
    one = build_policy(SEEING.model, action_dim=2, image_size=32).eval()
    one.vlm.load_state_dict(policy.vlm.state_dict())
    pixels = torch.randint(0, 256, (3, 64, 32, 3), dtype=torch.uint8)
    texts = ("reach the left disc", "reach it", "reach the right disc")
    with torch.no_grad():
        both = policy.encode(Observation(pixels, texts))
        parts = [one.encode(Observation(pixels[:, rows], texts)) for rows in _halves()]
    m = parts[0].tokens.shape[1]
    for number, part in enumerate(parts):
        own = both.tokens[:, number * m : (number + 1) * m] - policy.views.marks[number]
        torch.testing.assert_close(own, part.tokens)
        assert torch.equal(both.mask[:, number * m : (number + 1) * m], part.mask)
    policy.views.marks.data[1] += 1.0
    with torch.no_grad():
        marked = policy.encode(Observation(pixels, texts))
    torch.testing.assert_close(marked.tokens[:, m:], both.tokens[:, m:] + 1)
    assert torch.equal(marked.tokens[:, :m], both.tokens[:, :m])


def _halves() -> list[slice]:
    return [slice(0, 32), slice(32, 64)]


def test_rl_does_not_train_what_makes_latents() -> None:
    for lora in (LoRAConfig(), LoRAConfig(rank=2)):
        if lora.rank:
            pytest.importorskip("peft")
        model = replace(SEEING.model, lora=lora)
        policy = build_policy(model, action_dim=2, image_size=32, cameras=BOTH)
        marks = policy.views.marks
        assert not any(each is marks for each in policy.trainable("head"))
        before = policy.vlm_hash()
        assert any(each is marks for each in policy.trainable("all"))
        marks.data += 1
        assert policy.vlm_hash() != before, "cached latents are marked with it"


def test_without_names_nothing_has_changed() -> None:
    policy = build_policy(SEEING.model, action_dim=2, image_size=32)
    assert not [name for name in policy.state_dict() if "views" in name]
    assert EnvConfig(image_size=48).image_shape == (48, 48, 3)


def test_each_square_is_shifted_by_itself() -> None:
    images = torch.zeros(8, 32, 16, 3, dtype=torch.uint8)
    images[:, 16:] = 255  # of the second camera all is white
    seen = Observation(images, ("push",) * 8)
    generator = torch.Generator().manual_seed(0)
    shifted = augment(seen, AugmentConfig(shift=4, colour=0.0), words=(), generator=generator)
    assert torch.equal(shifted.images, images)


def test_what_cannot_be(tmp_path: Path) -> None:
    for cameras, message in [
        (("plain", "miror"), "did you mean 'mirror'"),
        (("plain", "plain"), "must name each camera once"),
    ]:
        config = replace(SEEING, env=replace(SEEING.env, cameras=cameras))
        with pytest.raises(UserError, match=message):
            irevla.run(config, out=tmp_path / "run")
    one = replace(SEEING, suite="pointmass")
    with pytest.raises(UserError, match="pointmass has one camera without a name"):
        irevla.run(one, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_dataset_of_one_camera_is_none_for_two(tmp_path: Path) -> None:
    play(tmp_path / "one", replace(SEEING, method="sft", env=replace(SEEING.env, cameras=())))
    expert = replace(SEEING.expert, dataset=str(tmp_path / "one" / "expert"))
    with pytest.raises(UserError, match=r"was made with cameras = \[\], but \['plain', 'mirror'\]"):
        irevla.run(replace(SEEING, expert=expert), out=tmp_path / "run")


def test_environments_of_others(tmp_path: Path) -> None:
    found = suite(tmp_path, cameras={"top": "pixels.top", "shown": "render()"})
    assert found.cameras == ("top", "shown")
    env = found.make("slide", replace(ENV, cameras=("shown", "top"))).unwrapped
    image, _ = env.reset(seed=1)
    assert image.shape == (64, 32, 3) == env.observation_space.shape
    np.testing.assert_array_equal(image[:32], env._view("shown", 32))
    np.testing.assert_array_equal(image[32:], env.picture(32))
    for cameras, message in [
        ({"top": "pixels.side"}, r"has no image 'pixels\.side'"),
        ({"t.p": "pixels.top"}, "cameras must be names"),
        ({"top": 3}, "cameras must be names"),
    ]:
        with pytest.raises(UserError, match=message):
            suite(tmp_path, cameras=cameras)


def test_datasets_of_others() -> None:
    pytest.importorskip("av")
    bounds = np.ones(2, np.float32)
    text = {"left": "reach the left disc", "right": "reach the right disc"}

    def opened(*cameras: str, camera: str = "") -> Demonstrated:
        wanted = Wanted("toy", text, -bounds, bounds, 30.0, 16, cameras)
        return Demonstrated(VIDEOS, wanted, camera=camera, stride=1)

    both = opened("wrist", "front")
    images = both.read().images
    assert images.shape[1:] == (32, 16, 3)
    for rows, name in zip((slice(0, 16), slice(16, 32)), ("wrist", "front"), strict=True):
        np.testing.assert_array_equal(images[:, rows], opened(camera=name).read().images)
    assert both.hash() != opened("front", "wrist").hash()
    assert colours(images[:, 16:]) is not None
    with pytest.raises(UserError, match="did you mean 'wrist'"):
        opened("front", "wist")
    with pytest.raises(UserError, match=r"leave expert\.camera out"):
        opened("front", "wrist", camera="front")


def test_panda_sim_has_two() -> None:
    pytest.importorskip("gymnasium_robotics")
    found = load_suite("panda-sim")
    config = EnvConfig(image_size=64, cameras=("front", "wrist"))
    env = found.make("pick-eggplant", config).unwrapped
    image, _ = env.reset(seed=0)
    front, wrist = image[:64], image[64:]
    usual = env.picture(64)
    np.testing.assert_array_equal(front[:, 32:], usual[:, 32:])
    assert (front[:16, :16] != usual[:16, :16]).any(), "nothing lies over the corner"
    assert front.std() > 10 and wrist.std() > 10
    env.close()
    assert TWO.cameras == BOTH
