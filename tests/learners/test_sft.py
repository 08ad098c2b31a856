import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from irevla.config import SFTConfig
from irevla.data.episodes import Frames
from irevla.data.mixture import Mixture, held_out
from irevla.errors import UserError
from irevla.learners.sft import Imitator, SFTResult, clip_gradients, fit, learning_rate
from irevla.runs.checkpoint import Checkpoints

CONFIG = SFTConfig(
    steps=60, batch=32, lr=3e-3, warmup=5, validate_every=20, shift=1, colour=0.1, validation=0.2
)


class ToyPolicy(nn.Module):
    """A body and a head on a 4 x 4 picture, with dropout, which draws from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(49, 64), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(64, 2)

    def forward(self, images: Tensor, instructions: Sequence[str]) -> Tensor:
        assert images.dtype == torch.uint8
        text = torch.tensor([[float("left" in text)] for text in instructions])
        pixels: Tensor = self.head(self.body(torch.cat([images.flatten(1) / 127.5 - 1, text], 1)))
        return pixels

    def trainable(self, what: str) -> list[nn.Parameter]:
        self.body.requires_grad_(what == "all")
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def files(self) -> dict[str, Any]:
        return {"model.safetensors": dict(self.state_dict()), "config.json": {"toy": True}}

    def load_files(self, files: Mapping[str, Any]) -> None:
        assert set(files) == {"model.safetensors", "config.json"}
        self.load_state_dict(files["model.safetensors"])


def data(episodes: int = 40, *, length: int = 6, seed: int = 0) -> Frames:
    """The action is how red and how green the picture is; where the text says left, the first sign
    turns."""
    rng = np.random.default_rng(seed)
    count = episodes * length
    colour = rng.integers(0, 256, (count, 1, 1, 3))
    images = np.clip(colour + rng.integers(-9, 10, (count, 4, 4, 3)), 0, 255).astype(np.uint8)
    episode = np.repeat(np.arange(episodes), length)
    left = episode % 2
    actions = (colour[:, 0, 0, :2] / 127.5 - 1).astype(np.float32)
    actions[:, 0] *= 1 - 2 * left
    return Frames(images, actions, left, left, episode, ("go right", "go left"), ("right", "left"))


def train(
    config: SFTConfig = CONFIG, *, mixture: Mixture | None = None, **options: Any
) -> tuple[ToyPolicy, SFTResult]:
    torch.manual_seed(1)
    policy = ToyPolicy()
    mixture = mixture or Mixture(data(), data(10, seed=1), 0.25, validation=config.validation)
    return policy, fit(policy, mixture, config, seed=0, **options)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def mse(policy: ToyPolicy, frames: Frames) -> float:
    texts = [frames.instructions[i] for i in frames.instruction]
    with torch.no_grad():
        return float(
            (policy(torch.from_numpy(frames.images), texts) - torch.from_numpy(frames.actions))
            .square()
            .mean()
        )


def test_it_learns_colours_and_instructions() -> None:
    config = replace(CONFIG, steps=600, colour=0.05, validate_every=200)
    policy, result = train(config, mixture=Mixture(data(200), None, validation=0.1))
    assert isinstance(policy, Imitator)
    fresh = data(50, seed=9)
    assert np.square(fresh.actions).mean() > 0.3
    assert mse(policy, fresh) < 0.02
    assert result.best_loss is not None and result.best_loss < 0.02
    assert not policy.training


class Crash(Exception):
    pass


@pytest.mark.parametrize("crash", [5, 20, 33, 59])
def test_resumed_it_ends_with_the_same_bits(tmp_path: Path, crash: int) -> None:
    reference, want = train(checkpoints=Checkpoints(tmp_path / "a"))

    def fail(done: int, steps: int) -> None:
        assert steps == 60
        if done == crash:
            raise Crash

    checkpoints = Checkpoints(tmp_path / "b")
    with pytest.raises(Crash):
        train(checkpoints=checkpoints, on_step=fail)
    torch.rand(17)  # whatever the global generator did in between
    policy, result = train(checkpoints=checkpoints)
    assert result == replace(want, resumed=crash // 20 * 20)
    assert same(policy, reference)
    newest = [Checkpoints(tmp_path / run).newest("sft") for run in "ab"]
    assert newest[0] is not None and newest[1] is not None
    for name in (
        "model.safetensors",
        "best-model.safetensors",
        "optimizer.safetensors",
        "sft.json",
        "MANIFEST.json",
    ):
        assert (newest[0][0] / name).read_bytes() == (newest[1][0] / name).read_bytes(), name


def test_a_finished_stage_is_not_repeated(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    policy, first = train(checkpoints=checkpoints)
    again, second = train(
        checkpoints=checkpoints, on_step=lambda done, steps: pytest.fail("a step was made")
    )
    assert second == replace(first, resumed=60)
    assert same(policy, again)


@pytest.mark.parametrize("change", [{"lr": 1e-4}, {"steps": 100}, {"batch": 16}])
def test_other_settings_are_not_resumed(tmp_path: Path, change: dict[str, Any]) -> None:
    train(checkpoints=Checkpoints(tmp_path))
    (name,) = change
    with pytest.raises(UserError, match=f"made with {name}"):
        train(replace(CONFIG, **change), checkpoints=Checkpoints(tmp_path))
    with pytest.raises(UserError, match="made with expert_frames"):
        train(mixture=Mixture(data(41), data(10, seed=1)), checkpoints=Checkpoints(tmp_path))


def test_the_global_generator_is_left_alone() -> None:
    mixture = Mixture(data())
    policy = ToyPolicy()
    torch.manual_seed(3)
    want = torch.rand(4)
    torch.manual_seed(3)
    fit(policy, mixture, replace(CONFIG, steps=5), seed=0)
    assert torch.equal(torch.rand(4), want)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted() -> None:
    frames = data()
    poisoned = replace(frames, actions=frames.actions.copy())
    poisoned.actions[100] = np.nan
    mixture = Mixture(poisoned, None)
    hit = sum(bool(mixture.batch(step, 32, 0).actions.isnan().any()) for step in range(60))
    assert 0 < hit < 40
    policy, result = train(mixture=mixture)
    assert result.skipped == hit
    assert result.train_loss is not None and math.isfinite(result.train_loss)
    assert all(parameter.isfinite().all() for parameter in policy.parameters())
    clean, _ = train(mixture=Mixture(frames, None))
    assert mse(policy, frames) < 2 * mse(clean, frames)


def test_only_such_gradients_are_an_error() -> None:
    frames = data()
    with pytest.raises(UserError, match="no gradient was finite"):
        train(mixture=Mixture(replace(frames, actions=frames.actions * np.float32(np.nan)), None))


def test_validation_is_the_weighted_mse_of_held_out_episodes() -> None:
    """On held-out frames with actions that nothing could have taught: a large loss, of exactly
    these frames."""
    share = 0.2
    parts = {"expert": data(), "online": data(10, seed=1)}
    for name, frames in parts.items():
        held = held_out(frames.episode, share, store=name)
        assert 0 < held.sum() < len(frames)
        frames.actions[held] += 10.0 if name == "expert" else 20.0
    points: list[tuple[int, Mapping[str, float]]] = []
    mixture = Mixture(parts["expert"], parts["online"], 0.25, validation=share)
    train(mixture=mixture, log=lambda step, values: points.append((step, dict(values))))
    last = [values for _, values in points if "validation" in values][-1]
    assert last["validation_expert"] == pytest.approx(100, rel=0.25)
    assert last["validation_online"] == pytest.approx(400, rel=0.25)
    assert last["validation"] == pytest.approx(
        0.75 * last["validation_expert"] + 0.25 * last["validation_online"]
    )
    assert last["loss"] < 1  # the training batches had none of them
    assert [step for step, _ in points] == [20, 40, 50, 60]


def test_the_best_weights_are_kept() -> None:
    """Held-out actions are the opposite of what is trained: the longer it trains, the worse it
    validates."""
    frames = data(60)
    held = held_out(frames.episode, 0.2, store="expert")
    frames.actions[held] *= -1
    weights: dict[int, dict[str, Tensor]] = {}
    losses: dict[int, float] = {}
    torch.manual_seed(1)
    policy = ToyPolicy()

    def remember(step: int, values: Mapping[str, float]) -> None:
        if "validation" in values:
            losses[step] = values["validation"]
            weights[step] = {name: value.clone() for name, value in policy.state_dict().items()}

    config = replace(CONFIG, steps=200)
    result = fit(policy, Mixture(frames, None, validation=0.2), config, seed=0, log=remember)
    assert list(losses) == list(range(20, 201, 20))
    assert result.best_loss == min(losses.values()) == losses[result.best_step]
    assert result.best_step < 200
    assert all(
        torch.equal(value, weights[result.best_step][name])
        for name, value in policy.state_dict().items()
    )


class Listener(ToyPolicy):
    """Remembers what it is shown and told while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.told: list[str] = []

    def forward(self, images: Tensor, instructions: Sequence[str]) -> Tensor:
        if self.training:
            self.seen.append(images)
            self.told += instructions
        return super().forward(images, instructions)


def listen(config: SFTConfig, *, texts: tuple[str, str]) -> Listener:
    policy, frames = Listener(), replace(data(), instructions=texts)
    fit(
        policy,
        Mixture(frames),
        replace(config, steps=4, validate_every=4),
        seed=0,
        words=("wug", "dax"),
    )
    return policy


def test_a_colour_that_is_named_is_kept() -> None:
    """The same pictures, with and without a colour's name; one colour a picture, so that shifts
    change nothing."""
    config = replace(CONFIG, shift=0, colour=0.6, colour_named=0.0, colour_share=1.0)
    texts = ("take the red one", "take the pear")
    plain, mixed = listen(replace(config, colour=0.0), texts=texts), listen(config, texts=texts)
    assert plain.told == mixed.told and set(mixed.told) == set(texts)
    changed = (torch.cat(plain.seen) != torch.cat(mixed.seen)).flatten(1).any(1)
    assert changed.tolist() == [text == texts[1] for text in mixed.told]


def test_words_are_swapped_in_its_share_of_the_samples() -> None:
    texts = ("take the red one", "take the pear")
    told = listen(replace(CONFIG, words=0.5), texts=texts).told
    swapped = [text for text in told if text not in texts]
    assert 0.3 < len(swapped) / len(told) < 0.7
    assert all(len({"wug", "dax"} & set(text.split())) == 1 for text in swapped)
    assert set(listen(CONFIG, texts=texts).told) == set(texts)


def test_without_held_out_episodes_the_last_weights_are_kept() -> None:
    _, result = train(mixture=Mixture(data(), None, validation=0.0))
    assert result.best_loss is None
    assert result.best_step == 60


def test_only_the_head_is_trained_where_asked() -> None:
    torch.manual_seed(1)
    before = ToyPolicy()
    policy, _ = train(trainable="head")
    assert torch.equal(policy.body[1].weight, before.body[1].weight)
    assert not torch.equal(policy.head.weight, before.head.weight)


def test_the_learning_rate_warms_up_and_falls() -> None:
    config = SFTConfig(steps=110, warmup=10, lr=1.0)
    assert [learning_rate(config, step) for step in (0, 4, 9, 10)] == pytest.approx(
        [0.1, 0.5, 1.0, 1.0]
    )
    assert learning_rate(config, 60) == pytest.approx(0.5)
    assert learning_rate(config, 109) == pytest.approx(0, abs=1e-3)
    assert learning_rate(SFTConfig(steps=5, warmup=10, lr=1.0), 4) == pytest.approx(0.5)


def test_gradients_are_clipped_by_their_common_norm() -> None:
    parameters = [
        nn.Parameter(torch.zeros(1)),
        nn.Parameter(torch.zeros(1)),
        nn.Parameter(torch.zeros(1)),
    ]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients(parameters, 10.0) == pytest.approx(5)
    assert parameters[0].grad.item() == pytest.approx(3)
    assert clip_gradients(parameters, 1.0) == pytest.approx(5)
    assert parameters[1].grad.item() == pytest.approx(0.8)
    parameters[0].grad = torch.tensor([math.nan])
    assert math.isnan(clip_gradients(parameters, 1.0))
    assert parameters[1].grad.item() == pytest.approx(0.8)
