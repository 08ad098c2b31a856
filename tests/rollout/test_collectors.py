"""Whoever plays, this process or actors on a cluster: the same rollouts, the same episodes, and
what is lost is dropped, counted and played again.

The actors are players in this process; `tests/stages/test_ray_rollouts.py` has those of Ray.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from irevla.config import EnvConfig, ModelConfig, RolloutsConfig
from irevla.data.buffers import RolloutBatch
from irevla.envs.processes import workers_outlive_stages
from irevla.envs.suite import Authorization, load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.errors import UserError
from irevla.models.policy import VLAPolicy, build_policy
from irevla.rollout import fleet
from irevla.rollout.actors import GaussianActor, MeanActor
from irevla.rollout.batches import Collector, RolloutRecorder, RolloutStats
from irevla.rollout.episodes import Outcome, endless_jobs
from irevla.rollout.exploration import PinkNoise
from irevla.rollout.fleet import fleet_outlives_stages, head_message
from irevla.rollout.played import open_episodes
from irevla.rollout.player import HEAD, Player
from irevla.rollout.practice import Practice, open_rollouts
from irevla.rollout.serve import Server
from irevla.storage.message import pack, unpack
from irevla.storage.share import Damaged
from irevla.types import Features, tensors_hash
from players import LOST, Players

POINTMASS = load_suite("pointmass")
ENV = EnvConfig(image_size=32, horizon=12, workers=1, envs_per_worker=2)
MODEL = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)
PRACTICE = Practice(POINTMASS, ENV, "left-disc-new", first=5, explore=3, gamma=1.0)
ACTING = Authorization("0" * 64, learning=True)
LOCAL = RolloutsConfig()
ONE = RolloutsConfig(backend="ray", actors=1)
TWO = RolloutsConfig(backend="ray", actors=2)
STEPS = 7  # decisions of a rollout: episodes cross from one to the next
NAMES = (
    "actions", "log_probs", "values", "next_values", "rewards", "terminated", "truncated", "valid",
)  # fmt: skip
JOBS = [Job("left-disc-new", seed, noise=0.2) for seed in range(40, 47)]


@pytest.fixture(autouse=True, scope="module")
def _workers() -> Iterator[None]:
    with workers_outlive_stages():
        yield


@pytest.fixture(autouse=True)
def _players(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fleet, "RayActors", Players)
    Players.made.clear()
    yield
    assert not LOST, "nothing was lost"
    assert all(each.closed for each in Players.made)


@pytest.fixture
def policy() -> VLAPolicy:
    torch.manual_seed(0)
    made = build_policy(MODEL, action_dim=2, image_size=32).eval()
    made.reset_exploration(0.5)
    return made


def value(features: Features) -> Tensor:
    return features.tokens.mean((1, 2))


def learn(policy: VLAPolicy) -> None:
    """Let the head be another, as after an update."""
    with torch.no_grad():
        for parameter in policy.action_head.parameters():
            parameter += 0.01


Found = list[tuple[RolloutBatch, RolloutStats]]


def rollouts(
    policy: VLAPolicy,
    config: RolloutsConfig,
    *,
    number: int = 3,
    practice: Practice = PRACTICE,
    files: dict[str, Any] | None = None,
) -> tuple[Found, dict[str, Any]]:
    """So many rollouts with a head that learns, and then what is under way."""
    found = []
    options: Any = {"live": False, "acting": ACTING, "files": files or {}}
    with open_rollouts(config, policy, practice, **options) as collected:
        for _ in range(number):
            found.append(collected.collect(value, STEPS))
            learn(policy)
        return found, written(collected.state())


def written(files: dict[str, Any]) -> dict[str, Any]:
    """The files as a checkpoint gives them back."""
    return {
        name: json.loads(json.dumps(content)) if name.endswith("json") else load(save(content))
        for name, content in files.items()
    }


def assert_same(found: Found, expected: Found) -> None:
    assert len(found) == len(expected)
    for (batch, stats), (want, want_stats) in zip(found, expected, strict=True):
        for name in NAMES:
            assert torch.equal(getattr(batch, name), getattr(want, name)), name
        assert torch.equal(batch.features.tokens, want.features.tokens)
        assert torch.equal(batch.features.mask, want.features.mask)
        assert stats.finished == want_stats.finished


def fresh(policy: VLAPolicy) -> VLAPolicy:
    return VLAPolicy.from_files(policy.files())


def test_one_actor_gives_the_bits_of_this_process(policy: VLAPolicy) -> None:
    want, _ = rollouts(fresh(policy), LOCAL)
    found, _ = rollouts(policy, ONE)
    assert_same(found, want)
    ended = torch.cat([(batch.terminated | batch.truncated).flatten() for batch, _ in want])
    assert ended.any() and not ended.all()


def test_two_actors_play_every_second_episode_side_by_side(policy: VLAPolicy) -> None:
    before = fresh(policy)
    practice = replace(PRACTICE, env=replace(ENV, horizon=5))  # all have ended by then
    ((batch, stats),) = rollouts(policy, TWO, number=1, practice=practice)[0]
    assert batch.rewards.shape == (STEPS, 4)
    for index in (0, 1):
        mine = slice(2 * index, 2 * index + 2)
        want, ended = every_second(before, practice, index)
        for name in NAMES:
            assert torch.equal(getattr(batch, name)[:, mine], getattr(want, name)), name
        tokens = batch.features.tokens.view(STEPS, 4, *batch.features.tokens.shape[1:])
        assert torch.equal(tokens[:, mine].flatten(0, 1), want.features.tokens)
        assert set(ended.finished) < set(stats.finished)


def every_second(
    policy: VLAPolicy, practice: Practice, index: int
) -> tuple[RolloutBatch, RolloutStats]:
    """What environments of this process give that play every second episode."""
    jobs = endless_jobs(practice.task, practice.first + index, step=2)
    with VectorEnv(POINTMASS, practice.env, jobs) as vec:
        noise = PinkNoise(practice.explore, decisions=practice.env.horizon)
        server = Server(vec, GaussianActor(policy, noise), RolloutRecorder(vec))
        return Collector(server).collect(value, STEPS)


@pytest.mark.parametrize("config", [LOCAL, ONE, TWO])
def test_it_goes_on_from_a_checkpoint_to_the_same_bits(
    policy: VLAPolicy, config: RolloutsConfig
) -> None:
    want, _ = rollouts(fresh(policy), config)
    first, files = rollouts(policy, config, number=1)
    rest, _ = rollouts(policy, config, number=2, files=files)
    assert_same([*first, *rest], want)


@pytest.mark.parametrize(("first", "then"), [(LOCAL, TWO), (TWO, LOCAL), (TWO, ONE), (ONE, TWO)])
def test_others_who_go_on_play_no_episode_that_was_begun_before(
    policy: VLAPolicy, first: RolloutsConfig, then: RolloutsConfig
) -> None:
    before, files = rollouts(policy, first)
    begun = {finished.job.seed for _, stats in before for finished in stats.finished}
    after, files = rollouts(policy, then, files=files)
    later = {finished.job.seed for _, stats in after for finished in stats.finished}
    assert begun and later and max(begun) < min(later)
    again, _ = rollouts(policy, then, files=files)
    last = {finished.job.seed for _, stats in again for finished in stats.finished}
    assert last and not last & (begun | later)


# --- what travels


def test_only_heads_go_out_and_only_latents_come_back(policy: VLAPolicy) -> None:
    with fleet_outlives_stages():
        rollouts(policy, TWO)
        rollouts(policy, TWO)
        (actors,) = Players.made
        answer = unpack(actors.players[0].answer(actors.heard[0][-1]))
    for heard in actors.heard:
        messages = [unpack(message) for message in heard]
        did = [message["command.json"]["do"] for message in messages]
        collects = ["rollouts", *["collect"] * 3]
        assert did == ["policy", *collects, "head", *collects]
        for message in messages[1:]:
            names = {name for files in message.values() for name in files}
            assert not any(name.startswith(("vlm.", "views.")) for name in names)
    kinds = {value.dtype for name, value in answer["columns.safetensors"].items()}
    assert torch.uint8 not in kinds, "no pixels"


def test_a_head_of_another_hash_is_refused_and_the_old_one_stays(policy: VLAPolicy) -> None:
    player = Player()
    player.answer(pack({**policy.files(), "command.json": {"do": "policy", "device": "cpu"}}))
    before = player._acting.hash()
    learn(policy)
    message = head_message(policy, "head")
    message["command.json"]["head"] = "0" * 64
    with pytest.raises(UserError, match=r"a head came that is not the one announced .*and is not"):
        player.answer(pack(message))
    assert player._acting.hash() == before != policy.hash()
    player.answer(pack(head_message(policy, "head")))
    assert player._acting.hash() == policy.hash()
    player.close()


@pytest.mark.parametrize("change", ["name", "shape", "missing"])
def test_a_head_of_another_model_is_refused_and_the_old_one_stays(
    policy: VLAPolicy, change: str
) -> None:
    player = Player()
    player.answer(pack({**policy.files(), "command.json": {"do": "policy", "device": "cpu"}}))
    before = player._acting.hash()
    learn(policy)
    head = dict(policy.head())
    last = max(head)
    value = head.pop(last)
    if change != "missing":
        head["strange" if change == "name" else last] = value[..., None]
    command = {"do": "head", "head": tensors_hash(head)}
    with pytest.raises(UserError, match="the weights are those of another model"):
        player.answer(pack({"command.json": command, HEAD: head}))
    assert player._acting.hash() == before
    player.close()


@pytest.mark.parametrize("place", [3, 20, -1])
def test_a_message_that_changes_on_the_way_is_refused(
    policy: VLAPolicy, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    def spoil(message: bytes) -> bytes:
        spoilt = bytearray(message)
        spoilt[place] ^= 1
        return bytes(spoilt)

    monkeypatch.setattr(Players, "spoil", staticmethod(spoil))
    with pytest.raises(Damaged, match="a message of another process is damaged"):
        rollouts(policy, ONE)


# --- an actor is lost


@pytest.mark.parametrize("when", [1, 2, 3, 5])  # with a policy, at its opening, in rollouts
def test_rollouts_of_a_lost_actor_are_played_again_to_the_same_bits(
    policy: VLAPolicy, when: int
) -> None:
    want, _ = rollouts(fresh(policy), TWO)
    LOST.append((1, when))
    found, _ = rollouts(policy, TWO)
    assert_same(found, want)
    dropped = [stats.dropped for _, stats in found]
    assert sum(dropped) == (2 if when > 2 else 0)
    assert dropped[when - 3] == sum(dropped)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_times_an_actor_or_a_node_is_lost(policy: VLAPolicy) -> None:
    """At messages drawn from a seed, now one actor, now both at once: what was under way is
    dropped and counted, and the same rollouts are played."""
    luck = Random(0)
    wants: dict[int, Found] = {}
    times = 0
    with fleet_outlives_stages():
        while times < 50:
            first = 5 + 100 * luck.randrange(2)
            practice = replace(PRACTICE, first=first)
            if first not in wants:
                wants[first], _ = rollouts(fresh(policy), TWO, practice=practice)
            (actors,) = Players.made
            lost = {
                index: len(actors.heard[index]) + luck.randrange(2, 6)
                for index in luck.sample((0, 1), luck.randint(1, 2))
            }
            LOST.extend(lost.items())
            before = [len(heard) for heard in actors.heard]
            found, _ = rollouts(fresh(policy), TWO, practice=practice)
            assert_same(found, wants[first])
            late = [index for index in lost if lost[index] - before[index] > 2]
            assert sum(stats.dropped for _, stats in found) == 2 * len(late)
            times += len(lost)


def test_an_actor_that_is_lost_again_and_again_is_told_in_one_line(policy: VLAPolicy) -> None:
    LOST.extend((0, when) for when in (3, 6, 9, 12))
    said = "rollout actor 0 was lost 4 times in a row, at last: died; look at its node, and give"
    with pytest.raises(UserError, match=said):
        rollouts(policy, TWO)


# --- episodes


def episodes(policy: VLAPolicy, config: RolloutsConfig) -> tuple[list[Outcome], dict[str, Any]]:
    actor = MeanActor(policy)
    with open_episodes(config, actor, policy, POINTMASS, ENV, JOBS, images=True) as played:
        outcomes = sorted(played, key=lambda outcome: outcome.job.seed)
        return outcomes, played.facts


def assert_same_episodes(found: Sequence[Outcome], want: Sequence[Outcome]) -> None:
    assert [outcome.job for outcome in found] == [outcome.job for outcome in want] == JOBS
    for one, other in zip(found, want, strict=True):
        assert one.success == other.success
        assert one.episode is not None and other.episode is not None
        assert one.episode.provenance == other.episode.provenance
        assert one.episode.instruction == other.episode.instruction
        for name in ("images", "actions", "rewards", "state"):
            mine, wanted = getattr(one.episode, name), getattr(other.episode, name)
            if name == "actions":  # a batch of one may be encoded to other last bits in float32
                np.testing.assert_allclose(mine, wanted, atol=1e-6)
            assert name == "actions" or np.array_equal(mine, wanted), name


@pytest.mark.parametrize("actors", [1, 2, 3])
def test_episodes_are_the_same_whoever_plays_them(policy: VLAPolicy, actors: int) -> None:
    want, _ = episodes(policy, LOCAL)
    found, facts = episodes(policy, replace(ONE, actors=actors))
    assert_same_episodes(found, want)
    assert facts == {}


def test_more_actors_than_episodes_are_none_the_worse(policy: VLAPolicy) -> None:
    actor = MeanActor(policy)
    with open_episodes(TWO, actor, policy, POINTMASS, ENV, JOBS[:1]) as played:
        (outcome,) = played
    assert outcome.job == JOBS[0] and outcome.episode is None


@pytest.mark.parametrize("when", [3, 5])  # before its first episode has come, and after its second
def test_episodes_of_a_lost_actor_are_dropped_counted_and_played_again(
    policy: VLAPolicy, when: int
) -> None:
    want, _ = episodes(policy, LOCAL)
    LOST.append((1, when))
    found, facts = episodes(policy, TWO)
    assert_same_episodes(found, want)
    assert facts == {"dropped": 2 if when == 3 else 1}


def test_whoever_has_enough_may_leave(policy: VLAPolicy) -> None:
    with fleet_outlives_stages():
        actor = MeanActor(policy)
        with open_episodes(TWO, actor, policy, POINTMASS, ENV, JOBS) as played:
            next(iter(played))
        found, _ = episodes(policy, TWO)
    assert [outcome.job for outcome in found] == JOBS
    assert len(Players.made) == 1


def test_an_environment_that_fails_for_good_is_told_as_here(policy: VLAPolicy) -> None:
    suite = load_suite("scripted_suite:SCRIPTED")
    jobs = [Job("user-error", 1)]
    for config in (LOCAL, TWO):
        with (
            pytest.raises(UserError, match="the table is missing; bring one"),
            open_episodes(config, MeanActor(policy), policy, suite, ENV, jobs) as played,
        ):
            list(played)
