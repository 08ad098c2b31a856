import numpy as np
import pytest
import torch

from irevla.config import MixtureConfig
from irevla.data.episodes import Frames
from irevla.data.mixture import Mixture, held_out
from irevla.tasks import Stage, draw_seed


def frames(lengths: list[int], tasks: list[int], *, offset: int = 0) -> Frames:
    """Frame i is a picture of the number i in base 256; its action is (i, episode, task)."""
    episode = np.repeat(np.arange(len(lengths)), lengths)
    task = np.repeat(tasks, lengths)
    number = offset + np.arange(len(episode))
    pixels = np.stack([number // 256, number % 256, np.zeros_like(number)], 1).astype(np.uint8)
    names = tuple(f"task {i}" for i in range(max(tasks) + 1))
    actions = np.stack([number, episode, task], 1).astype(np.float32)
    images = np.ascontiguousarray(np.broadcast_to(pixels[:, None, None], (len(episode), 2, 2, 3)))
    return Frames(
        images, actions, task, task, episode, tuple(f"do {name}" for name in names), names
    )


EXPERT = frames([30, 3, 3, 3] * 25, [0, 1, 1, 2] * 25)
CABLE = frames([30] * 1000, [0] * 1000)
ONLINE = frames([10] * 40, [0] * 40, offset=5000)


def mix(
    expert: Frames = EXPERT, online: Frames | None = None, *, seed: int = 0, **settings: float
) -> Mixture:
    plain = {"validation": 0.0, "online_share": 0.25}
    return Mixture(expert, online, MixtureConfig(**{**plain, **settings}), seed=seed)


def numbers(actions: torch.Tensor) -> list[int]:
    return [int(number) for number in actions[:, 0]]


@pytest.mark.parametrize(("share", "size"), [(0.25, 128), (0.25, 10), (0.3, 7), (0.0, 8), (1.0, 8)])
def test_the_share_of_online_samples_is_exact(share: float, size: int) -> None:
    mixture = mix(EXPERT, ONLINE, online_share=share)
    counts = [
        sum(n >= 5000 for n in numbers(mixture.batch(step, size).actions)) for step in range(40)
    ]
    assert sum(counts) == pytest.approx(share * size * 40)
    assert max(counts) - min(counts) <= (0 if float(share * size).is_integer() else 1)


def test_without_online_data_all_is_expert() -> None:
    empty = frames([0], [0])
    for online in (None, empty):
        mixture = mix(EXPERT, online)
        assert mixture.online_share == 0
        assert max(numbers(mixture.batch(0, 64).actions)) < 5000


def test_frames_of_d_rl_are_drawn_in_proportion_to_their_return() -> None:
    """Two tasks, of episodes of 2 and 4, and of 3 decisions: each task as often, a frame as
    0.5^(decisions to go)."""
    online = frames([2, 4, 3], [0, 0, 1], offset=5000)
    mixture = mix(EXPERT, online, online_share=0.5, discount=0.5)
    drawn = torch.cat([mixture.batch(step, 2000).actions for step in range(20)])
    expert, practised = drawn[drawn[:, 0] < 5000], drawn[drawn[:, 0] >= 5000]
    shares = [float((practised[:, 0] == number).float().mean()) for number in range(5000, 5009)]
    first, second = [0.5, 1, 0.125, 0.25, 0.5, 1], [0.25, 0.5, 1]
    wanted = [w / sum(first) / 2 for w in first] + [w / sum(second) / 2 for w in second]
    assert shares == pytest.approx(wanted, abs=0.012)
    alike = mix(EXPERT, online, online_share=0.5).batch(0, 2000).actions
    assert torch.equal(alike[:1000], mixture.batch(0, 2000).actions[:1000]), "D_e is drawn as ever"
    assert len(expert) == len(practised)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    first, again = mix(EXPERT, ONLINE), mix(EXPERT, ONLINE)
    first.batch(3, 32)
    a, b = first.batch(7, 32), again.batch(7, 32)
    assert torch.equal(a.observation.images, b.observation.images)
    assert torch.equal(a.actions, b.actions)
    assert a.observation.instructions == b.observation.instructions
    draws = {
        tuple(numbers(mix(EXPERT, ONLINE, seed=seed).batch(step, 32).actions))
        for step in range(5)
        for seed in range(5)
    }
    assert len(draws) == 25


def test_images_instructions_and_actions_stay_together() -> None:
    batch = mix(EXPERT, ONLINE).batch(0, 64)
    images = batch.observation.images
    assert images.dtype == torch.uint8 and images.shape == (64, 2, 2, 3)
    shown = (images[:, 0, 0, 0].int() * 256 + images[:, 0, 0, 1]).tolist()
    assert shown == [number % 65536 for number in numbers(batch.actions)]
    told = tuple(f"do task {int(task)}" for task in batch.actions[:, 2])
    assert batch.observation.instructions == told


def test_tasks_are_balanced() -> None:
    tasks = mix(EXPERT).batch(0, 6000).actions[:, 2]
    shares = [float((tasks == task).float().mean()) for task in range(3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03)


def test_held_out_episodes_are_never_trained_on() -> None:
    mixture = mix(EXPERT, ONLINE, online_share=0.5, validation=0.1)
    trained = {n for step in range(300) for n in numbers(mixture.batch(step, 64).actions)}
    validation = {
        name: {n for batch in batches for n in numbers(batch.actions)}
        for name, batches in mixture.validation(chunk=700, samples=20_000).items()
    }
    assert set(validation) == {"expert", "online"}
    for name, store, offset in (("expert", EXPERT, 0), ("online", ONLINE, 5000)):
        episodes = {int(store.episode[n - offset]) for n in validation[name]}
        assert len(episodes) == len(set(store.episode)) // 10
        assert validation[name] == set(
            (offset + np.flatnonzero(np.isin(store.episode, list(episodes)))).tolist()
        )
        assert not validation[name] & trained
    assert len(trained) > 0.9 * (len(EXPERT) + len(ONLINE) - sum(map(len, validation.values())))


def test_validation_is_drawn_as_batches_are() -> None:
    """Balanced by task and discounted, always the same, and a share of the batches counts as much."""
    online = frames([2, 4, 3] * 40, [0, 0, 1] * 40, offset=5000)
    mixture = mix(EXPERT, online, validation=0.25, discount=0.5)
    drawn = {
        name: torch.cat([batch.actions for batch in batches])
        for name, batches in mixture.validation(samples=6000).items()
    }
    tasks = drawn["expert"][:, 2]
    shares = [float((tasks == task).float().mean()) for task in range(3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03), "not as many as there are frames"
    last = np.append(np.flatnonzero(np.diff(online.episode)), len(online.episode) - 1)
    ends = np.isin(drawn["online"][:, 0].numpy() - 5000, last)
    assert ends.mean() > 0.5, "the last decision of an episode counts most"
    other = mix(EXPERT, online, seed=7, validation=0.25, discount=0.5).validation(samples=6000)
    for name, batches in other.items():
        assert torch.equal(torch.cat([batch.actions for batch in batches]), drawn[name])
    assert mixture.weights() == {"expert": 0.75, "online": 0.25}


def test_eight_stages_rehearse_nearly_every_frame() -> None:
    """Each stage 2 has draws of its own: of the panda's cable 37 % were ever drawn before."""
    seen: set[int] = set()
    for number in range(8):
        stage = Stage("sl", "pick-carrot", number + 1)
        mixture = mix(CABLE, seed=draw_seed(0, stage.name))
        for step in range(200):
            seen.update(numbers(mixture.batch(step, 64).actions))
    assert len(seen) > 0.9 * len(CABLE)
    alone = mix(CABLE, seed=draw_seed(0, "sl"))
    once = {n for step in range(200) for n in numbers(alone.batch(step, 64).actions)}
    assert len(once) < 0.5 * len(CABLE)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.5, 0.7])
def test_what_is_held_out_stays_so_as_the_store_grows(share: float) -> None:
    everything = held_out(np.arange(400), share, store="online")
    assert everything.mean() == pytest.approx(share, abs=0.01)
    for size in (1, 7, 33, 399):
        assert np.array_equal(held_out(np.arange(size), share, store="online"), everything[:size])
    assert not np.array_equal(everything, held_out(np.arange(400), share, store="expert"))


def test_a_tiny_store_is_not_held_out_whole() -> None:
    for store in (frames([4], [0]), frames([4, 4], [0, 0])):
        mixture = mix(store, validation=0.9)
        assert len(mixture.batch(0, 4).actions) == 4
