"""A VLM on a server and the rest of the policy here: the bits of a VLM here, wherever it is used.

The server is a player in this process; `tests/stages/test_ray_rollouts.py` has one of Ray.
"""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from irevla.cli.main import main
from irevla.config import ComputeConfig, Config, EnvConfig, ModelConfig, RolloutsConfig, SACConfig
from irevla.envs.suite import Authorization, load_suite
from irevla.envs.vector import Job
from irevla.errors import UserError
from irevla.models.policy import VLAPolicy, build_policy
from irevla.rollout import fleet
from irevla.rollout.actors import MeanActor
from irevla.rollout.encoder import encoder_of
from irevla.rollout.fleet import fleet_outlives_stages
from irevla.rollout.played import open_episodes
from irevla.rollout.practice import Practice, open_rollouts
from irevla.runs.run import open_run
from irevla.stages.keeping import open_replay
from irevla.storage.message import unpack
from irevla.storage.read import read_json
from irevla.tasks import Stage
from irevla.types import Features, Observation
from players import LOST, Players

POINTMASS = load_suite("pointmass")
ENV = EnvConfig(image_size=32, horizon=12, workers=1, envs_per_worker=2)
MODEL = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)
PRACTICE = Practice(POINTMASS, ENV, "left-disc-new", first=5, explore=3, gamma=1.0)
ACTING = Authorization("0" * 64, learning=True)
HERE = RolloutsConfig()
SERVER = RolloutsConfig(encoder="ray")
JOBS = [Job("left-disc-new", seed) for seed in range(40, 46)]
SHORT = """
--device cpu --threads 1 --rl sac --sac.no-gripper --rl-tasks left-disc-new --rounds 2
--eval.episodes 4 --eval.interim 0 --eval.no-videos --expert.episodes 6 --sft.steps 400
--sft.validate-every 200 --sac.steps 200 --sac.demonstrations 2 --sac.attempts 20 --sac.warmup 5
--harvest.episodes 2 --harvest.attempts 4 --sl.steps 40 --sl.validate-every 20 --env.workers 1
"""


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


def value(features: Features) -> torch.Tensor:
    return features.tokens.mean((1, 2))


def latents_and_actions(policy: VLAPolicy, config: RolloutsConfig) -> list[torch.Tensor]:
    """Two rollouts with a head that learns."""
    found = []
    options = {"live": False, "acting": ACTING, "files": {}}
    with open_rollouts(config, policy, PRACTICE, **options) as collected:  # type: ignore[arg-type]
        for _ in range(2):
            batch, _ = collected.collect(value, 7)
            found += [batch.features.tokens, batch.actions, batch.rewards, batch.next_values]
            with torch.no_grad():
                for parameter in policy.action_head.parameters():
                    parameter += 0.01
    return found


def told(players: Players) -> list[str]:
    return [unpack(message)["command.json"]["do"] for message in players.heard[0]]


def test_rollouts_are_those_of_a_vlm_here(policy: VLAPolicy) -> None:
    want = latents_and_actions(VLAPolicy.from_files(policy.files()), HERE)
    found = latents_and_actions(policy, SERVER)
    assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True))
    assert policy.encoder is None


def test_episodes_are_those_of_a_vlm_here(policy: VLAPolicy) -> None:
    found = {}
    for config in (HERE, SERVER):
        with open_episodes(config, MeanActor(policy), policy, POINTMASS, ENV, JOBS) as played:
            found[config.encoder] = {outcome.job: outcome.actions for outcome in played}
    for job in JOBS:
        assert (found["ray"][job] == found["local"][job]).all()


def test_images_go_there_and_latents_come_back(policy: VLAPolicy) -> None:
    """The policy goes there once, and then heads; latents that are to be stored come in half of the
    bytes."""
    seen = Observation(torch.zeros(3, 32, 32, 3, dtype=torch.uint8), ("a disc",) * 3)
    sizes = {}
    with fleet_outlives_stages(), torch.no_grad():
        for stored in (False, True):
            with encoder_of(SERVER, policy, stored=stored):
                latents = policy.encode(seen)
            want = policy.encode(seen)
            want = want.rounded().float() if stored else want
            assert torch.equal(latents.tokens, want.tokens)
            (players,) = Players.made
            sizes[stored] = len(players.players[0].answer(players.heard[0][-1]))
    assert told(players) == ["policy", "encode", "head", "encode"]
    names = {name for message in players.heard[0][2:] for name in unpack(message)}
    assert names == {"command.json", "head.safetensors", "seen.safetensors", "told.json"}
    assert sizes[True] < 0.6 * sizes[False]


@pytest.mark.parametrize("when", [1, 2, 4])
def test_a_server_that_is_lost_is_replaced_and_asked_again(policy: VLAPolicy, when: int) -> None:
    want = latents_and_actions(VLAPolicy.from_files(policy.files()), HERE)
    LOST.append((0, when))
    found = latents_and_actions(policy, SERVER)
    assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True))


def test_one_that_is_lost_again_and_again_is_told_in_one_line(policy: VLAPolicy) -> None:
    LOST.extend((0, when) for when in (3, 5, 7, 9))
    with pytest.raises(
        UserError, match=r"lost 4 times in a row.*give the same command again, with"
    ):
        latents_and_actions(policy, SERVER)
    assert policy.encoder is None


def test_several_cameras_a_state_and_chunks_go_there_too() -> None:
    model = replace(MODEL, chunk=4, execute=3)
    made = build_policy(
        model, action_dim=2, image_size=32, state_dim=3, cameras=("front", "wrist")
    ).eval()
    images = torch.randint(0, 256, (2, 64, 32, 3), dtype=torch.uint8)
    seen = Observation(images, ("a disc", "a longer instruction"), torch.randn(2, 6)[:, ::2])
    with torch.no_grad():
        want = made.encode(seen)
        with encoder_of(SERVER, made):
            found = made.encode(seen)
    for name in ("tokens", "mask", "state"):
        assert torch.equal(getattr(found, name), getattr(want, name)), name


SAC = SACConfig(gripper=False)
LEARNER, STAGE_2 = {"stage1": "ray"}, {"stage2": "ray", "pipeline": True, "processes": 2}
PLAYERS = RolloutsConfig(backend="ray", actors=3)


@pytest.mark.parametrize(
    ("rollouts", "compute", "changes", "beside"),
    [
        (SERVER, LEARNER, {"rl": "sac"}, 1),
        (SERVER, LEARNER, {"rl": "sac", "method": "more-sft"}, 0),  # which has no stage 1
        (SERVER, STAGE_2, {}, 2),
        (SERVER, LEARNER | STAGE_2, {"rl": "sac"}, 3),
        (PLAYERS, LEARNER, {"rl": "sac"}, 0),  # they leave before its learner starts
        (PLAYERS, LEARNER | STAGE_2, {"rl": "sac"}, 2),
        (SERVER, STAGE_2 | {"ray_address": "ray://10.8.0.1:10001"}, {}, 0),  # another cluster
    ],
)
def test_the_cluster_has_room_for_all_who_are_there_at_once(
    monkeypatch: pytest.MonkeyPatch,
    rollouts: RolloutsConfig,
    compute: dict[str, Any],
    changes: dict[str, Any],
    beside: int,
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(fleet, "joined", lambda address, *, asked: nullcontext())
    monkeypatch.setattr(fleet, "actor_shares", lambda *args, cpus: {"CPU": cpus})
    monkeypatch.setattr(fleet, "shares", lambda *args: {"CPU": 1.0})
    monkeypatch.setattr(fleet, "check_together", lambda *groups: asked.extend(groups))
    config = Config(rollouts=rollouts, compute=ComputeConfig(**compute), sac=SAC, **changes)
    fleet.check_cluster(config, workers=2)
    assert asked == ([(rollouts.actors, {"CPU": 2}), (beside, {"CPU": 1.0})] if beside else [])


def test_one_cluster_is_known_by_its_host() -> None:
    hosts = [fleet._host(each) for each in ("auto", "10.8.0.1:6379", "ray://10.8.0.1:10001")]
    assert hosts == ["auto", "10.8.0.1", "10.8.0.1"]


def test_latents_say_on_what_they_were_made(policy: VLAPolicy, tmp_path: Path) -> None:
    """A server like this machine may take its place in the middle of a stage; another may not."""
    config = Config(suite="pointmass", model=MODEL, env=ENV, device="cpu")
    stage = Stage("rl", "left-disc-new")
    with open_run(tmp_path, config) as run:
        open_replay(run, policy, stage, "online", suite=POINTMASS)
        with encoder_of(SERVER, policy):
            assert policy.encoder is not None and policy.encoder.device_type == "cpu"
            open_replay(run, policy, stage, "online", suite=POINTMASS)
            policy.encoder._fleet.device_type = "cuda"  # type: ignore[attr-defined]
            said = r"made on 'cpu auto', and would be made on 'cuda auto' now: let the VLM be there"
            with pytest.raises(UserError, match=said):
                open_replay(run, policy, stage, "online", suite=POINTMASS)


def test_a_run_ends_as_one_with_a_vlm_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through stage 2, after which the server has another VLM, and a second round; `irevla eval` of
    what comes of it as well."""
    monkeypatch.setattr(fleet, "check_cluster", lambda config, *, workers: None)
    monkeypatch.setattr(fleet, "find_spec", lambda name: name)
    for where in ("local", "ray"):
        out = ["--out", str(tmp_path / where), "--rollouts.encoder", where]
        assert main(["run", "pointmass", *out, *SHORT.split()]) == 0
    rows = [read_json(tmp_path / where / "results.json")["rows"] for where in ("local", "ray")]
    found = [[{**row, "seconds": 0.0} for row in each] for each in rows]
    assert found[0] == found[1]
    policies = [VLAPolicy.from_pretrained(tmp_path / where).hash() for where in ("local", "ray")]
    assert policies[0] == policies[1]
    (players,) = Players.made
    did = told(players)
    assert {"policy", "head", "encode"} == set(did)
    assert did.count("policy") == 3  # after stages 0, 2 and 2
    evaluated = []
    for options in ([], ["--rollouts.encoder", "ray"]):
        capsys.readouterr()
        assert main(["eval", str(tmp_path / "ray"), "--episodes", "2", "--json", *options]) == 0
        evaluated.append([row | {"seconds": 0.0} for row in json.loads(capsys.readouterr().out)])
    assert evaluated[0] == evaluated[1]
    assert "encode" in told(Players.made[-1]) and len(Players.made) == 2
