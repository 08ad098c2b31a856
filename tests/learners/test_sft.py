import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from irevla.config import AugmentConfig, MixtureConfig, SFTConfig
from irevla.data.episodes import Frames
from irevla.data.mixture import Mixture, held_out
from irevla.learners.optim import Means, clip, learning_rate, step_if_finite
from irevla.learners.sft import SFT
from irevla.tasks import Parts
from irevla.types import Policy
from toys import PixelToy

CONFIG = SFTConfig(
    steps=60,
    batch=32,
    lr=3e-3,
    warmup=5,
    validate_every=20,
    augment=AugmentConfig(shift=1, colour=0.1),
)
PLAIN = AugmentConfig(shift=0, colour=0.0)


def data(episodes: int = 40, *, length: int = 6, seed: int = 0) -> Frames:
    """The action is how red and how green the image is; where the text says left, the first sign
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


def mixture(
    expert: Frames | None = None, online: Frames | None = None, *, validation: float = 0.0
) -> Mixture:
    return Mixture(expert or data(), online, MixtureConfig(validation=validation), seed=0)


def new_policy() -> PixelToy:
    torch.manual_seed(1)
    return PixelToy()


def learner_for(
    config: SFTConfig = CONFIG,
    *,
    parts: Parts = "all",
    seed: int = 0,
    words: tuple[str, ...] = (),
) -> SFT:
    return SFT(new_policy(), config, parts=parts, seed=seed, words=words)


def learn(learner: SFT, mix: Mixture, *, until: int = CONFIG.steps) -> list[dict[str, float]]:
    """The metrics of each step."""
    metrics = []
    while learner.updates < until:
        metrics.append(learner.update(mix.batch(learner.updates, learner.config.batch)))
    return metrics


def mse(policy: Policy, mix: Mixture) -> float:
    with torch.no_grad():
        seen, actions, _ = mix.batch(1000, 500)
        policy.train(False)
        return float((policy.mean(policy.encode(seen)) - actions).square().mean())


def test_it_learns_colours_and_instructions() -> None:
    learner = learner_for(replace(CONFIG, steps=600, augment=replace(CONFIG.augment, colour=0.05)))
    assert isinstance(learner.policy, Policy)
    learn(learner, mixture(data(200)), until=600)
    fresh = data(50, seed=9)
    assert np.square(fresh.actions).mean() > 0.3
    assert mse(learner.policy, mixture(fresh)) < 0.02


@pytest.mark.parametrize("done", [0, 1, 7, 59])
def test_saved_and_loaded_after_any_step_it_ends_with_the_same_bits(done: int) -> None:
    mix = mixture()
    learner = learner_for()
    learn(learner, mix, until=done)
    files = {**learner.policy.files(), **learner.state()}
    files = {name: _copied(content) for name, content in files.items()}
    metrics = learn(learner, mix)

    torch.rand(17)  # whatever torch's own generator did in between
    resumed = SFT(PixelToy(), CONFIG, parts="all", seed=0)
    resumed.policy.load_files(files)
    resumed.load_state(files)
    assert resumed.updates == done
    assert learn(resumed, mix) == metrics
    assert resumed.policy.hash() == learner.policy.hash()


def _copied(content: Any) -> Any:
    if any(isinstance(value, Tensor) for value in content.values()):
        return {name: value.clone() for name, value in content.items()}
    return dict(content)


def test_torchs_own_generator_is_left_alone() -> None:
    learner = learner_for()
    torch.manual_seed(3)
    want = torch.rand(4)
    torch.manual_seed(3)
    learn(learner, mixture(), until=5)
    assert torch.equal(torch.rand(4), want)


def test_the_seed_decides_what_is_drawn() -> None:
    """Augmentation and dropout: the batches are the same."""
    mix = mixture()
    for augmentation in (CONFIG.augment, PLAIN):
        hashes = []
        for seed in (0, 0, 1):
            learner = learner_for(replace(CONFIG, augment=augmentation), seed=seed)
            learn(learner, mix, until=2)
            hashes.append(learner.policy.hash())
        assert hashes[0] == hashes[1] != hashes[2]


def test_a_gradient_that_is_not_finite_is_skipped_and_counted() -> None:
    frames = data()
    poisoned = replace(frames, actions=frames.actions.copy())
    poisoned.actions[100] = np.nan
    mix = mixture(poisoned)
    hit = sum(bool(mix.batch(step, 32).actions.isnan().any()) for step in range(60))
    assert 0 < hit < 40
    learner = learner_for()
    metrics = learn(learner, mix)
    assert learner.skipped == sum(step.get("skipped", 0) for step in metrics) == hit
    assert all(parameter.isfinite().all() for parameter in learner.parameters)
    clean = learner_for()
    learn(clean, mixture(frames))
    assert mse(learner.policy, mixture(frames)) < 2 * mse(clean.policy, mixture(frames))


def test_validation_is_the_weighted_mse_of_held_out_episodes() -> None:
    """On held-out frames with actions that nothing could have taught: a large loss, of exactly
    these frames."""
    share = 0.2
    parts = {"expert": data(), "online": data(10, seed=1)}
    for name, frames in parts.items():
        held = held_out(frames.episode, share, store=name)
        assert 0 < held.sum() < len(frames)
        frames.actions[held] += 10.0 if name == "expert" else 20.0
    mix = mixture(parts["expert"], parts["online"], validation=share)
    learner = learner_for()
    metrics = learn(learner, mix)
    before = learner.policy.hash()
    values = learner.validate(mix.validation(), mix.weights())
    assert values["validation_expert"] == pytest.approx(100, rel=0.25)
    assert values["validation_online"] == pytest.approx(400, rel=0.25)
    weighted = 0.75 * values["validation_expert"] + 0.25 * values["validation_online"]
    assert values["validation"] == pytest.approx(weighted)
    assert metrics[-1]["loss"] < 1  # the training batches had none of them
    assert learner.validate(mix.validation(), mix.weights()) == values
    assert learner.policy.hash() == before


def test_without_held_out_episodes_there_is_no_validation() -> None:
    mix = mixture()
    assert learner_for().validate(mix.validation(), mix.weights()) == {}


# --- What it is shown while it learns


def shown(config: SFTConfig, *, texts: tuple[str, str]) -> tuple[Tensor, list[str]]:
    """All images and instructions of four steps."""
    frames = replace(data(), instructions=texts)
    policy = new_policy()
    learner = SFT(policy, config, parts="all", seed=0, words=("wug", "dax"))
    learn(learner, mixture(frames), until=4)
    images = torch.cat([seen.images for seen in policy.shown])
    return images, [text for seen in policy.shown for text in seen.instructions]


def test_a_colour_that_is_named_is_kept() -> None:
    """The same images, with and without a colour's name."""
    strong = AugmentConfig(shift=0, colour=0.6, colour_named=0.0, colour_share=1.0)
    texts = ("take the red one", "take the pear")
    plain, told = shown(replace(CONFIG, augment=replace(strong, colour=0.0)), texts=texts)
    mixed, told_again = shown(replace(CONFIG, augment=strong), texts=texts)
    assert told == told_again and set(told) == set(texts)
    changed = (plain != mixed).flatten(1).any(1)
    assert changed.tolist() == [text == texts[1] for text in told]


def test_words_are_swapped_in_its_share_of_the_samples() -> None:
    texts = ("take the red one", "take the pear")
    _, told = shown(replace(CONFIG, augment=replace(PLAIN, words=0.5)), texts=texts)
    swapped = [text for text in told if text not in texts]
    assert 0.3 < len(swapped) / len(told) < 0.7
    assert all(len({"wug", "dax"} & set(text.split())) == 1 for text in swapped)
    assert set(shown(CONFIG, texts=texts)[1]) == set(texts)
    with pytest.raises(AssertionError, match="no words"):
        learner_for(replace(CONFIG, augment=replace(PLAIN, words=0.5)))


def test_only_the_head_is_trained_where_asked() -> None:
    before = new_policy().weights()
    learner = learner_for(parts="head")
    learn(learner, mixture(), until=5)
    assert isinstance(learner.policy, PixelToy)
    changed = {
        name for name, value in learner.policy.weights().items() if not value.equal(before[name])
    }
    assert changed == {"head.weight", "head.bias"}


# --- What all learners share


def test_the_learning_rate_warms_up_and_falls() -> None:
    config = SFTConfig(steps=110, warmup=10, lr=1.0)
    rates = [learning_rate(config, step) for step in (0, 4, 9, 10)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert learning_rate(config, 60) == pytest.approx(0.5)
    assert learning_rate(config, 109) == pytest.approx(0, abs=1e-3)
    assert learning_rate(SFTConfig(steps=5, warmup=10, lr=1.0), 4) == pytest.approx(0.5)


def gradients(*values: float) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(len(values) + 1)]
    for parameter, value in zip(parameters, values, strict=False):
        parameter.grad = torch.tensor([value])
    return parameters  # the last one has none


def test_each_group_is_clipped_by_its_own_norm() -> None:
    first = gradients(3.0, 4.0)
    second = gradients(0.5)
    optimizer = torch.optim.SGD([*first, *second], lr=1.0)
    norms = step_if_finite(optimizer, {"actor": first, "critic": second}, limit=1.0)
    assert norms["actor_grad_norm"] == pytest.approx(5)
    assert norms["critic_grad_norm"] == pytest.approx(0.5)
    steps = [parameter.item() for parameter in (*first, *second)]
    assert steps == pytest.approx([-0.6, -0.8, 0.0, -0.5, 0.0])
    assert all(parameter.grad is None for parameter in (*first, *second))


def test_where_one_gradient_is_not_finite_no_parameter_moves() -> None:
    first = gradients(math.nan, 4.0)
    second = gradients(0.5)
    optimizer = torch.optim.SGD([*first, *second], lr=1.0)
    assert step_if_finite(optimizer, {"a": first, "b": second}, limit=1.0) == {"skipped": 1}
    assert all(parameter.item() == 0 for parameter in (*first, *second))
    assert all(parameter.grad is None for parameter in (*first, *second))


def test_the_norm_of_no_gradients_is_where_the_parameters_are() -> None:
    # On the CPU it met norms from the GPU: PPO's warm-up ended there.
    assert clip([nn.Parameter(torch.zeros(2, device="meta"))], limit=1.0).device.type == "meta"


def test_means_are_over_the_steps_that_have_a_metric() -> None:
    means = Means()
    means.add({"loss": 1.0, "kl": torch.tensor(4.0)})
    means.add({"skipped": 1.0})
    means.add({"skipped": 1.0, "loss": 2.0})
    assert means.take() == {"loss": 1.5, "kl": 4.0, "skipped": 2.0}
    assert means.take() == {}


# --- Chunks


def test_what_lies_beyond_an_episodes_end_is_not_learnt() -> None:
    """Whatever stands there, the same is learnt; and the loss is what is shown, over all."""

    class Chunked(PixelToy):
        chunk = 3

        def __init__(self) -> None:
            super().__init__()
            self.action_head = nn.Linear(64, 6)

    mix = Mixture(data(), None, MixtureConfig(validation=0.0), seed=0, chunk=3)
    batch = mix.batch(0, CONFIG.batch)
    assert 0 < (~batch.shown).sum() < batch.shown.sum()
    weights = []
    for beyond in (0.0, 100.0):
        torch.manual_seed(1)
        policy = Chunked()
        learner = SFT(policy, replace(CONFIG, augment=PLAIN), parts="all", seed=0)
        with torch.no_grad():
            policy.train(False)
            error = policy.mean(policy.encode(batch.observation)) - batch.actions
        actions = torch.where(batch.shown, batch.actions, torch.tensor(beyond))
        loss = learner._loss(batch._replace(actions=actions), learner._mean)
        wanted = torch.where(batch.shown, error, torch.zeros(())).square().mean()
        torch.testing.assert_close(loss, wanted)
        learner.update(batch._replace(actions=actions))
        weights.append(policy.hash())
    assert weights[0] == weights[1]
