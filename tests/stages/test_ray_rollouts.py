"""Rollouts and episodes by actors on a Ray cluster of this machine; `tests/rollout/
test_collectors.py` has the same contract without Ray."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from irevla.cli.main import main
from irevla.compute.ray_actors import Lost, RayActors
from irevla.config import ComputeConfig, Config, EnvConfig, ModelConfig, RolloutsConfig
from irevla.data.buffers import RolloutBatch
from irevla.envs.suite import Authorization, load_suite
from irevla.envs.vector import Job
from irevla.errors import UserError
from irevla.models.policy import VLAPolicy, build_policy
from irevla.rollout import fleet
from irevla.rollout.actors import MeanActor
from irevla.rollout.batches import RolloutStats
from irevla.rollout.fleet import check_cluster, fleet_outlives_stages
from irevla.rollout.played import open_episodes
from irevla.rollout.practice import Practice, open_rollouts
from irevla.storage.read import read_json
from irevla.types import Features

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
pytest.importorskip("ray")

SUITE = load_suite("pointmass")
ENV = EnvConfig(image_size=32, horizon=12, workers=1, envs_per_worker=2)
MODEL = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)
PRACTICE = Practice(SUITE, ENV, "left-disc-new", first=5, explore=3, gamma=1.0)
ACTING = Authorization("0" * 64, learning=True)
LOCAL = RolloutsConfig()
JOBS = [Job("left-disc-new", seed) for seed in range(40, 52)]
NAMES = (
    "actions", "log_probs", "values", "next_values", "rewards", "terminated", "truncated", "valid",
)  # fmt: skip
SHORT = """
--device cpu --threads 1 --rl-tasks left-disc-new --eval.episodes 4 --eval.interim 0
--eval.no-videos --expert.episodes 6 --sft.steps 60 --sft.validate-every 20 --ppo.steps 512
--harvest.episodes 4 --harvest.attempts 8 --sl.steps 40 --sl.validate-every 20 --env.workers 1
"""
Found = list[tuple[RolloutBatch, RolloutStats]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that is "local", and two nodes that are "remote"."""
    here = Path(__file__).parent
    places = [here.parents[1] / "src", here.parent, here]
    path = os.pathsep.join([*map(str, places), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        made = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"local": 1}}
        )
        for _ in range(2):
            made.add_node(num_cpus=2, resources={"remote": 2})
        yield made
        made.shutdown()


@pytest.fixture
def config(cluster: Any) -> RolloutsConfig:
    return RolloutsConfig(
        backend="ray", actors=1, device="cpu", ray_address=cluster.address, ray_resource="remote"
    )


@pytest.fixture
def policy() -> VLAPolicy:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    made = build_policy(MODEL, action_dim=2, image_size=32).eval()
    made.reset_exploration(0.5)
    return made


def value(features: Features) -> torch.Tensor:
    return features.tokens.mean((1, 2))


def rollouts(policy: VLAPolicy, config: RolloutsConfig, *, lose: Any = None) -> Found:
    """Three rollouts with a head that learns; before the second, something may be lost."""
    found: Found = []
    acting = VLAPolicy.from_files(policy.files())
    options: Any = {"live": False, "acting": ACTING, "files": {}}
    with open_rollouts(config, acting, PRACTICE, **options) as collected:
        for number in range(3):
            if number == 1 and lose is not None:
                lose()
            found.append(collected.collect(value, 7))
            with torch.no_grad():
                for parameter in acting.action_head.parameters():
                    parameter += 0.01
    return found


def assert_same(found: Found, want: Found) -> None:
    for (batch, stats), (other, other_stats) in zip(found, want, strict=True):
        for name in NAMES:
            assert torch.equal(getattr(batch, name), getattr(other, name)), name
        assert torch.equal(batch.features.tokens, other.features.tokens)
        assert stats.finished == other_stats.finished


def actors() -> list[int]:
    """The processes of actors."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::Host" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def test_one_actor_gives_the_bits_of_this_process(
    policy: VLAPolicy, config: RolloutsConfig
) -> None:
    assert_same(rollouts(policy, config), rollouts(policy, LOCAL))


@pytest.mark.parametrize("lost", [False, True])
def test_a_server_that_encodes_gives_the_bits_of_this_process(
    policy: VLAPolicy, config: RolloutsConfig, lost: bool
) -> None:
    """Though it is killed in between."""
    server = replace(config, backend="local", encoder="ray")
    lose = (lambda: os.kill(max(actors()), signal.SIGKILL)) if lost else None
    assert_same(rollouts(policy, server, lose=lose), rollouts(policy, LOCAL))


def test_a_run_on_a_node_with_room_for_one_gives_the_result_of_one_without_ray(
    cluster: Any, tmp_path: Path
) -> None:
    """Its episodes an actor plays, which leaves when stage 2 needs the node's CPU."""
    there = [
        f"--{section}.ray-address {cluster.address} --{section}.ray-resource local"
        for section in ("rollouts", "compute")
    ]
    played = "--rollouts.backend ray --rollouts.device cpu"
    learnt = f"--compute.stage2 ray --compute.share {tmp_path}/share"
    ways = {"local": "", "ray": " ".join([played, learnt, *there])}
    for name, more in ways.items():
        out = str(tmp_path / name)
        assert main(["run", "pointmass", "--out", out, *SHORT.split(), *more.split()]) == 0
    rows = [read_json(tmp_path / name / "results.json")["rows"] for name in ways]
    found = [[{**row, "seconds": 0.0} for row in each] for each in rows]
    assert found[0] == found[1]
    policies = [VLAPolicy.from_pretrained(tmp_path / name).hash() for name in ways]
    assert policies[0] == policies[1]


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_rollouts_of_a_lost_actor_are_played_again_to_the_same_bits(
    policy: VLAPolicy, config: RolloutsConfig, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "PATIENCE", 5.0)
    two = replace(config, actors=2)
    want = rollouts(policy, two)
    number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[how]
    found = rollouts(policy, two, lose=lambda: os.kill(max(actors()), number))
    assert_same(found, want)
    assert [stats.dropped for _, stats in found] == [0, 2, 0]


def test_rollouts_of_a_lost_node_are_played_again_elsewhere(
    policy: VLAPolicy, config: RolloutsConfig, cluster: Any
) -> None:
    want = rollouts(policy, config)
    node = cluster.add_node(num_cpus=2, resources={"lone": 2})
    lone = replace(config, ray_resource="lone")

    def lose() -> None:
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=2, resources={"lone": 2})

    found = rollouts(policy, lone, lose=lose)
    assert_same(found, want)
    assert [stats.dropped for _, stats in found] == [0, 2, 0]


def test_episodes_are_those_of_this_process_though_an_actor_dies(
    policy: VLAPolicy, config: RolloutsConfig
) -> None:
    def play(config: RolloutsConfig, *, hit: bool = False) -> tuple[list[Any], dict[str, Any]]:
        outcomes = []
        actor = MeanActor(policy)
        with open_episodes(config, actor, policy, SUITE, ENV, JOBS, images=True) as played:
            for outcome in played:
                if hit and not outcomes:
                    os.kill(max(actors()), signal.SIGKILL)
                assert outcome.episode is not None
                images = outcome.episode.images.tobytes()
                outcomes.append((outcome.job.seed, outcome.success, outcome.length, images))
            return sorted(outcomes), played.facts

    want, _ = play(LOCAL)
    with fleet_outlives_stages():
        found, _ = play(replace(config, actors=2))
        before = actors()
        again, facts = play(replace(config, actors=2), hit=True)
        assert len(set(before) & set(actors())) == 1, "they stay, and one was replaced"
    assert found == again == want
    assert facts["dropped"] in (1, 2)


class Hanging:
    """Answers what it is told, unless that is to hang."""

    def answer(self, message: bytes) -> bytes:
        while message == b"hang":
            time.sleep(0.1)
        return message


def test_an_actor_that_is_alive_and_hangs_is_lost(cluster: Any) -> None:
    actors = RayActors(
        "test_ray_rollouts:Hanging",
        number=1,
        address=cluster.address,
        asked="rollouts.ray_address",
        resource="remote",
        cpus=1,
        device="cpu",
        patience=1.0,
    )
    try:
        assert actors.answer(0, actors.ask(0, b"hello"), most=60.0) == b"hello"
        with pytest.raises(Lost, match=r"is alive, but gave no answer for [34] s"):
            actors.answer(0, actors.ask(0, b"hang"), most=2.5)
        actors.replace(0)
        assert actors.answer(0, actors.ask(0, b"hello again")) == b"hello again"
    finally:
        actors.close()


def test_what_a_cluster_has_not_is_said_in_one_line(config: RolloutsConfig) -> None:
    said = "of 'remote', and 6 actors need one each: add nodes, or lower rollouts.actors"
    with pytest.raises(UserError, match=said):
        check_cluster(Config(rollouts=replace(config, actors=6)), workers=1)
    with pytest.raises(UserError, match="of 'CPU', and 2 actors need 9 each"):
        check_cluster(Config(rollouts=replace(config, actors=2)), workers=9)
    room = "have room for 0 of 1 actors, each with 1 of 'remote', 3 of 'CPU' of one node: add"
    with pytest.raises(UserError, match=room):
        check_cluster(Config(rollouts=config), workers=3)
    with pytest.raises(UserError, match=r"no Ray cluster answers at rollouts.ray_address '127.0.0"):
        check_cluster(Config(rollouts=replace(config, ray_address="127.0.0.1:9")), workers=1)
    beside = ComputeConfig(
        stage2="ray",
        pipeline=True,
        processes=4,
        ray_address=config.ray_address,
        ray_resource=config.ray_resource,
    )
    one = Config(rollouts=replace(config, backend="local", encoder="ray"), compute=beside)
    with pytest.raises(UserError, match="at once, and need 5 of 'remote' together, where it has 4"):
        check_cluster(one, workers=1)
    check_cluster(replace(one, compute=replace(beside, processes=3)), workers=1)


def test_no_actor_outlives_what_it_plays_for(policy: VLAPolicy, config: RolloutsConfig) -> None:
    rollouts(policy, config)
    deadline = time.monotonic() + 60
    while actors():
        assert time.monotonic() < deadline
        time.sleep(0.2)
