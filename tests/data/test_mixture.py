from dataclasses import replace

import numpy as np
import pytest
import torch

from irevla.compute.ranks import Ranks
from irevla.config import MixtureConfig
from irevla.data.episodes import Frames
from irevla.data.mixture import Mixture, held_out
from irevla.presets import find_preset
from irevla.tasks import Stage, draw_seed
from irevla.types import Observation


def frames(lengths: list[int], tasks: list[int], *, offset: int = 0) -> Frames:
    """Frame i is an image of the number i in base 256; its action is (i, episode, task)."""
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
ONLINE = frames([10] * 40, [0] * 40, offset=5000)


def mixture(
    expert: Frames = EXPERT,
    online: Frames | None = ONLINE,
    share: float = 0.25,
    *,
    validation: float = 0.0,
    discount: float = 1.0,
    seed: int = 0,
) -> Mixture:
    config = MixtureConfig(validation=validation, online_share=share, discount=discount)
    return Mixture(expert, online, config, seed=seed)


def numbers(actions: torch.Tensor) -> list[int]:
    return [int(number) for number in actions[:, 0]]


def validated(mix: Mixture, **sizes: int) -> dict[str, list[int]]:
    batches = mix.validation(**sizes)
    return {
        name: [n for part in parts for n in numbers(part.actions)]
        for name, parts in batches.items()
    }


@pytest.mark.parametrize(("share", "size"), [(0.25, 128), (0.25, 10), (0.3, 7), (0.0, 8), (1.0, 8)])
def test_the_share_of_online_samples_is_exact(share: float, size: int) -> None:
    mix = mixture(share=share)
    counts = []
    for step in range(40):
        drawn = numbers(mix.batch(step, size).actions)
        assert len(drawn) == size
        counts.append(sum(number >= 5000 for number in drawn))
    assert sum(counts) == pytest.approx(share * size * 40)
    assert max(counts) - min(counts) <= (0 if float(share * size).is_integer() else 1)


def test_without_online_data_all_is_expert() -> None:
    empty = frames([0], [0])
    for online in (None, empty):
        mix = mixture(online=online)
        assert mix.online_share == 0
        assert max(numbers(mix.batch(0, 64).actions)) < 5000


def test_frames_of_d_rl_are_drawn_in_proportion_to_their_return() -> None:
    """Two tasks, of episodes of 2 and 4, and of 3 decisions: each task as often, a frame as
    0.5^(decisions to go)."""
    online = frames([2, 4, 3], [0, 0, 1], offset=5000)
    mix = mixture(online=online, share=0.5, discount=0.5)
    drawn = torch.cat([mix.batch(step, 2000).actions for step in range(20)])
    expert = drawn[drawn[:, 0] < 5000]
    practised = drawn[drawn[:, 0] >= 5000]
    shares = [float((practised[:, 0] == number).float().mean()) for number in range(5000, 5009)]
    first = [0.5, 1, 0.125, 0.25, 0.5, 1]
    second = [0.25, 0.5, 1]
    wanted = [w / sum(first) / 2 for w in first] + [w / sum(second) / 2 for w in second]
    assert shares == pytest.approx(wanted, abs=0.012)
    alike = mixture(online=online, share=0.5).batch(0, 2000).actions
    assert torch.equal(alike[:1000], mix.batch(0, 2000).actions[:1000]), "D_e is drawn as ever"
    assert len(expert) == len(practised)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    first = mixture()
    first.batch(3, 32)
    one = first.batch(7, 32)
    other = mixture().batch(7, 32)
    assert torch.equal(one.observation.images, other.observation.images)
    assert torch.equal(one.actions, other.actions)
    assert one.observation.instructions == other.observation.instructions
    draws = {
        tuple(numbers(mixture(seed=seed).batch(step, 32).actions))
        for step in range(5)
        for seed in range(5)
    }
    assert len(draws) == 25


def test_images_instructions_and_actions_stay_together() -> None:
    seen, actions, _ = mixture().batch(0, 64)
    images = seen.images
    assert images.dtype == torch.uint8 and images.shape == (64, 2, 2, 3)
    shown = (images[:, 0, 0, 0].int() * 256 + images[:, 0, 0, 1]).tolist()
    assert shown == [number % 65536 for number in numbers(actions)]
    assert seen.instructions == tuple(f"do task {int(task)}" for task in actions[:, 2])


def test_tasks_are_balanced() -> None:
    tasks = mixture(online=None).batch(0, 6000).actions[:, 2]
    shares = [float((tasks == task).float().mean()) for task in range(3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03)


# --- Stages of a run


def stage(number: int, *, seed: int = 0) -> int:
    """What a run of `seed` draws from in the stage 2 of that number: as `Run.draws`."""
    return draw_seed(seed, Stage("sl", "pick", number).name)


def test_no_two_stages_share_their_batches_and_one_is_the_same_again() -> None:
    def drawn(seed: int) -> list[int]:
        mix = mixture(seed=seed)
        return [number for step in range(5) for number in numbers(mix.batch(step, 32).actions)]

    keys = [stage(number, seed=seed) for number in (1, 2) for seed in (0, 1)]
    batches = [drawn(key) for key in keys]
    assert len({tuple(batch) for batch in batches}) == 4
    assert drawn(keys[0]) == batches[0]


def test_eight_stages_2_of_the_arm_see_nearly_all_demonstrations_of_a_task() -> None:
    """Were the draws of all stages the same, a task of many frames would be seen in small part:
    2,000 steps of 48 demonstrated samples are 96,000 draws, of 8 tasks, 12,000 of each."""
    config = find_preset("panda-sim")
    episodes = 12  # a task's, for 500: then steps are scaled alike
    expert = frames([80] * episodes * 8, sorted(list(range(8)) * episodes))
    steps = round(config.sl.steps * episodes / 500)
    seen: set[int] = set()
    share = []
    for number in range(1, 9):
        mix = Mixture(expert, ONLINE, replace(config.mixture, validation=0.0), seed=stage(number))
        for step in range(steps):
            actions = mix.batch(step, config.sl.batch).actions
            seen |= {int(n) for n, _, task in actions if n < 5000 and task == 3}
        share.append(len(seen) / (80 * episodes))
    assert share[0] < 0.4, "one stage alone cannot"
    assert share[-1] > 0.9


# --- Validation


def test_held_out_episodes_are_never_trained_on() -> None:
    mix = mixture(share=0.5, validation=0.1)
    trained = {n for step in range(300) for n in numbers(mix.batch(step, 64).actions)}
    validation = {name: set(drawn) for name, drawn in validated(mix, samples=4000).items()}
    assert set(validation) == {"expert", "online"}
    for name, store, offset in (("expert", EXPERT, 0), ("online", ONLINE, 5000)):
        episodes = {int(store.episode[n - offset]) for n in validation[name]}
        assert len(episodes) == len(set(store.episode)) // 10
        frames_of_them = np.flatnonzero(np.isin(store.episode, list(episodes)))
        assert validation[name] == set((offset + frames_of_them).tolist()), "all of their frames"
        assert not validation[name] & trained
    assert len(trained) > 0.9 * (len(EXPERT) + len(ONLINE) - sum(map(len, validation.values())))


def test_validation_is_drawn_as_batches_are() -> None:
    """Each task as often, though one has ten times the frames; a frame as discount^(to go)."""
    online = frames([4] * 40, [0] * 40, offset=5000)
    mix = mixture(online=online, discount=0.5, validation=0.2)
    drawn = validated(mix, samples=4000)
    tasks = EXPERT.task[drawn["expert"]]
    assert np.bincount(tasks) / 4000 == pytest.approx([1 / 3] * 3, abs=0.03)
    to_go = 3 - (np.array(drawn["online"]) - 5000) % 4
    wanted = [8 / 15, 4 / 15, 2 / 15, 1 / 15]
    assert np.bincount(to_go) / 4000 == pytest.approx(wanted, abs=0.03)


def test_validation_is_the_same_in_every_stage_and_whatever_was_drawn_before() -> None:
    mix = mixture(validation=0.1)
    first = validated(mix)
    mix.batch(0, 64)
    assert validated(mix) == first
    assert validated(mixture(validation=0.1, seed=5)) == first
    assert {name: len(drawn) for name, drawn in first.items()} == {"expert": 1024, "online": 1024}


def test_validation_comes_in_chunks_of_the_size_that_is_asked_for() -> None:
    parts = mixture(validation=0.1).validation(samples=10, chunk=4)
    assert [len(part.actions) for part in parts["expert"]] == [4, 4, 2]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.5, 0.7])
def test_what_is_held_out_stays_so_as_the_store_grows(share: float) -> None:
    everything = held_out(np.arange(400), share, store="online")
    assert everything.mean() == pytest.approx(share, abs=0.01)
    for size in (1, 7, 33, 399):
        assert np.array_equal(held_out(np.arange(size), share, store="online"), everything[:size])
    assert not np.array_equal(everything, held_out(np.arange(400), share, store="expert"))


def test_a_tiny_store_is_not_held_out_whole() -> None:
    for store in (frames([4], [0]), frames([4, 4], [0, 0])):
        mix = mixture(store, None, validation=0.9)
        assert len(mix.batch(0, 4).actions) == 4


# --- Several processes


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_the_parts_of_a_batch_are_all_of_it(discount: float) -> None:
    stores = (frames([5, 9, 4], [0, 1, 0]), frames([6, 3], [0, 1], offset=100))
    mix = Mixture(*stores, MixtureConfig(validation=0.0, discount=discount), seed=0)
    for step in range(3):
        whole = mix.batch(step, 13)
        parts = [mix.batch(step, 13, Ranks(rank, 3).part(13)) for rank in range(3)]
        assert [len(part.actions) for part in parts] == [4, 4, 5]
        joined = Observation.cat([part.observation for part in parts])
        assert torch.equal(joined.images, whole.observation.images)
        assert joined.instructions == whole.observation.instructions
        assert torch.equal(torch.cat([part.actions for part in parts]), whole.actions)


# --- Chunks of actions


def test_a_sample_has_the_actions_that_follow_as_far_as_its_episode_goes() -> None:
    mix = Mixture(EXPERT, ONLINE, MixtureConfig(validation=0.0), seed=0, chunk=4)
    seen, actions, shown = mix.batch(0, 512)
    assert actions.shape == shown.shape == (512, 4 * 3)
    ends = 0
    for image, chunk, real in zip(
        seen.images, actions.view(-1, 4, 3), shown.view(-1, 4, 3), strict=True
    ):
        number = int(image[0, 0, 0]) * 256 + int(image[0, 0, 1])
        source = ONLINE if number >= 5000 else EXPERT
        place = number - 5000 * (number >= 5000)
        own = source.episode == source.episode[place]
        left = min(4, int(own[place:].sum()))
        assert real.all(1).tolist() == real.any(1).tolist() == [step < left for step in range(4)]
        assert chunk[:left].tolist() == source.actions[place : place + left].tolist()
        assert (chunk[left:] == chunk[left - 1]).all(), "never those of the next episode"
        ends += left < 4
    assert 50 < ends < 450


def test_a_chunk_of_one_draws_the_same_samples() -> None:
    one, four = (
        Mixture(EXPERT, ONLINE, MixtureConfig(), seed=3, chunk=chunk).batch(5, 64)
        for chunk in (1, 4)
    )
    assert torch.equal(one.observation.images, four.observation.images)
    assert torch.equal(one.actions, four.actions[:, :3]) and one.shown.all()


def test_demonstrations_of_a_task_that_d_rl_has_weigh_less() -> None:
    """Task 0 is in D_RL: of D_e it is drawn a quarter as often as each of the two others."""
    config = MixtureConfig(validation=0.0, online_share=0.5, trained=0.25)
    mix = Mixture(EXPERT, ONLINE, config, seed=0)
    drawn = torch.cat([mix.batch(step, 2000).actions for step in range(20)])
    expert = drawn[drawn[:, 0] < 5000]
    assert len(expert) == len(drawn) / 2
    shares = [float((expert[:, 2] == task).float().mean()) for task in range(3)]
    assert shares == pytest.approx([1 / 9, 4 / 9, 4 / 9], abs=0.01)


def test_demonstrations_of_trained_tasks_can_be_left_out() -> None:
    config = MixtureConfig(validation=0.0, online_share=0.5, trained=0.0)
    expert = Mixture(EXPERT, ONLINE, config, seed=0).batch(0, 2000).actions[:1000]
    assert set(expert[:, 2].tolist()) == {1, 2}
    alone = frames([10] * 4, [0] * 4)  # all tasks are trained: there is nothing else to draw
    assert len(Mixture(alone, ONLINE, config, seed=0).batch(0, 8).actions) == 8
    stage_0 = Mixture(EXPERT, None, config, seed=0).batch(0, 2000).actions
    assert torch.equal(stage_0, mixture(online=None).batch(0, 2000).actions), "stage 0 is as ever"
