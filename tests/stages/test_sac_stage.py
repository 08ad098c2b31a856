"""Stage 1 by SAC, on the toy suite: all of it, interrupted and resumed, and what the policy then
executes."""

import copy
import json
import mmap
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irevla.algorithm import run_algorithm
from irevla.config import (
    AugmentConfig,
    Config,
    EnvConfig,
    EvalConfig,
    ExpertConfig,
    HarvestConfig,
    ModelConfig,
    SACConfig,
    SFTConfig,
)
from irevla.data.episodes import EpisodeStore
from irevla.data.replay import LatentReplay, LatentSpec
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job, StepResult
from irevla.errors import UserError
from irevla.evaluation.report import write_report
from irevla.learners import sac as sac_module
from irevla.learners.sac import SAC
from irevla.models.policy import VLAPolicy, build_policy
from irevla.models.sac_actor import SoftActor
from irevla.rollout.actors import MeanActor
from irevla.rollout.serve import Server, View
from irevla.runs.run import open_run
from irevla.stages import async_learner, keeping
from irevla.stages.async_learner import AsyncLearner, SharedWeights
from irevla.stages.keeping import Kept, recall
from irevla.stages.start import new_policy, starting_policy
from irevla.storage.metrics import Metrics
from irevla.tasks import SFT, Stage
from irevla.types import Observation, weights_hash

pytestmark = pytest.mark.usefixtures("coarse_plots")
TASK = "left-disc-new"
PLAIN = AugmentConfig(shift=0, colour=0.0)
SUPERVISED = SFTConfig(steps=250, batch=32, validate_every=250, warmup=10, augment=PLAIN)
POINTMASS = load_suite("pointmass")
CONFIG = Config(
    suite="pointmass",
    rl="sac",
    threads=1,
    expert_tasks=("left-disc",),
    rl_tasks=(TASK,),
    unseen_tasks=("left-square-orange",),
    env=EnvConfig(image_size=32, horizon=12, workers=1, envs_per_worker=4),
    expert=ExpertConfig(episodes=20),
    model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
    sft=SUPERVISED,
    sac=SACConfig(
        steps=200,
        demonstrations=3,
        attempts=60,
        gripper=False,
        batch=16,
        utd=1,
        critics=2,
        warmup=10,
        checkpoint_every=8,
        updates_per_decision=0.5,
        converged=2.0,
    ),
    harvest=HarvestConfig(episodes=2, attempts=20),
    sl=replace(SUPERVISED, steps=4, validate_every=4, warmup=1),
    eval=EvalConfig(episodes=1, interim=1, videos=False),
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """CONFIG, from a policy and demonstrations made once."""
    first = tmp_path_factory.mktemp("first") / "run"
    with open_run(first, replace(CONFIG, rl="ppo", method="sft")) as run:
        run_algorithm(run)
    expert = replace(CONFIG.expert, dataset=str(first / "expert"))
    return replace(CONFIG, expert=expert, from_checkpoint=str(first / "checkpoints" / "sft"))


def play(directory: Path, config: Config) -> None:
    with open_run(directory, config) as run:
        run_algorithm(run)


def events(directory: Path) -> dict[str, Mapping[str, Any]]:
    lines = [json.loads(line) for line in (directory / "journal.jsonl").read_text().splitlines()]
    assert len({line["event"] for line in lines}) == len(lines)
    return {line["event"]: line for line in lines}


def latents(directory: Path, name: str, turn: str = TASK) -> LatentReplay:
    root = directory / "latents" / turn / name
    header = json.loads((root / "header.json").read_text())
    del header["format"]
    return LatentReplay(root, LatentSpec(**header))


def test_all_of_it(config: Config, tmp_path: Path) -> None:
    play(tmp_path, config)
    done = events(tmp_path)
    assert list(done)[4:7] == [f"zero-shot:{TASK}", f"rl:{TASK}", f"evaluated rl:{TASK}"]
    assert done[f"zero-shot:{TASK}"]["kept"] == 3

    before, demonstrations, online = (
        VLAPolicy.from_pretrained(config.from_checkpoint),
        latents(tmp_path, "demonstrations"),
        latents(tmp_path, "online"),
    )
    assert len(demonstrations.episodes) == 3 and all(
        episode["success"] for episode in demonstrations.episodes
    )
    seeds = [episode["seed"] for episode in online.episodes]
    assert len(set(seeds)) == len(seeds) and not set(seeds) & {
        e["seed"] for e in demonstrations.episodes
    }
    assert 200 <= len(online) < 200 + 4 * 12
    assert (
        done[f"rl:{TASK}"]["decisions"] == len(online)
        and done[f"rl:{TASK}"]["updates"] == len(online) // 2
    )
    assert demonstrations.spec.weights == online.spec.weights == before.vlm_hash()

    after = VLAPolicy.from_pretrained(tmp_path / "checkpoints" / f"rl-{TASK}")
    assert weights_hash(after.vlm) == weights_hash(before.vlm)
    assert weights_hash(after.action_head) != weights_hash(before.action_head)
    curves = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    points = [row for row in curves if row["stage"] == f"rl:{TASK}"]
    last = points[-1]
    assert {"critic_loss", "success", "length"} <= set().union(*points)
    assert last["updates"] == len(online) // 2
    assert sum(row.get("episodes", 0) for row in points) == len(seeds)
    assert TASK in write_report(tmp_path).read_text()


def test_what_succeeds_while_it_learns_is_kept_as_it_was_done(
    config: Config, tmp_path: Path
) -> None:
    """Interrupted once: everything that stage 1 solved is in D_RL, once, and nothing that it did
    not; in time."""
    config = replace(
        config,
        env=replace(config.env, rl_horizon=10),
        harvest=replace(config.harvest, from_training=True),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "log", stop_at(rows=4))
        with pytest.raises(KeyboardInterrupt):
            play(tmp_path, config)
    play(tmp_path, config)
    demonstrations, online, store = (
        latents(tmp_path, "demonstrations"),
        latents(tmp_path, "online"),
        EpisodeStore(tmp_path / "online"),
    )
    assert max(episode["decisions"] for episode in online.episodes) == 10 >= max(map(len, store))
    zero_shot = events(tmp_path)[f"zero-shot:{TASK}"]
    failed = zero_shot["tried"] - len(demonstrations.episodes)
    assert failed and zero_shot["decisions"] == len(demonstrations) + 10 * failed
    played = [*demonstrations.episodes, *online.episodes]
    solved = {episode["seed"]: episode["decisions"] for episode in played if episode["success"]}
    practised = [episode for episode in store if episode.provenance.seed in solved]
    assert len(solved) > 3 + 2 and len(practised) == len(solved), "each once"
    assert len(store) == len(solved) + events(tmp_path)[f"harvest:{TASK}"]["kept"]
    buffers = (demonstrations, online)
    done = np.concatenate([b._map["action"] for b in buffers])
    for episode in practised:
        assert episode.success and len(episode) == solved[episode.provenance.seed]
        assert (done == episode.actions[0]).all(1).any(), "the label is what was done"


@pytest.mark.parametrize("async_learner", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_second_round_has_buffers_of_its_own(
    async_learner: bool, config: Config, tmp_path: Path
) -> None:
    # So slowly that the second round can still begin with some successes, whatever the clocks do.
    sac = replace(config.sac, steps=40, demonstrations=1, attempts=300, lr=1e-6)
    config = replace(
        config,
        rounds=2,
        sac=replace(sac, async_learner=async_learner),
        sl=replace(config.sl, lr=1e-6),
        eval=replace(config.eval, interim=0),
    )
    play(tmp_path, config)
    assert events(tmp_path)[f"rl:{TASK}@2"]["decisions"] >= 40
    first, second = (latents(tmp_path, "online", turn) for turn in (TASK, f"{TASK}@2"))
    assert first.spec.weights != second.spec.weights, "stage 2 changed the VLM"
    own = {e["seed"] for e in second.episodes if not e.get("earlier")}
    assert own and not {e["seed"] for e in first.episodes} & own


@pytest.mark.parametrize("wanted", [2, 4])
def test_a_second_round_begins_with_the_successes_of_the_first(
    wanted: int, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the latents of its own VLM; only what is missing is played."""
    config = replace(
        config,
        rounds=2,
        sac=replace(config.sac, steps=40, demonstrations=wanted, attempts=300, lr=1e-6),
        sl=replace(config.sl, lr=1e-6),
        eval=replace(config.eval, interim=0),
    )
    policies = {}

    def watched(policy: Any, stage: Stage, *stores: Any, **facts: Any) -> None:
        policies[stage.round] = copy.deepcopy(policy)
        recall(policy, stage, *stores, **facts)
        recall(policy, stage, *stores, **facts)  # as after a kill: each comes once

    monkeypatch.setattr(keeping, "recall", watched)
    play(tmp_path, config)
    zero_shot = events(tmp_path)[f"zero-shot:{TASK}@2"]
    assert zero_shot["recalled"] == 2 and zero_shot["kept"] == wanted - 2
    assert bool(zero_shot["tried"]) == (wanted > 2)
    assert "recalled" not in events(tmp_path)[f"zero-shot:{TASK}"]

    harvested = list(EpisodeStore(tmp_path / "online"))[:2]
    store = latents(tmp_path, "demonstrations", f"{TASK}@2")
    seeds = [episode["seed"] for episode in store.episodes]
    assert seeds[:2] == [episode.provenance.seed for episode in harvested]
    assert len(set(seeds)) == len(seeds) == wanted
    first = harvested[0]
    seen = Observation.of(first.images, [first.instruction] * len(first.images))
    with torch.no_grad():
        expected = policies[2].encode(seen).rounded().tokens
    kept = store.features(np.arange(len(first.images))).tokens
    torch.testing.assert_close(kept, expected.float(), atol=2e-2, rtol=2e-2)
    assert store._map["action"][: len(first.actions)].tolist() == first.actions.tolist()
    assert store._map["reward"][: len(first.actions)].tolist() == first.rewards.tolist()

    practised = latents(tmp_path, "online").episodes
    known = ("decisions", "seed", "success")
    taken = latents(tmp_path, "online", f"{TASK}@2").episodes[: len(practised)]
    assert [[e[k] for k in known] for e in taken] == [[e[k] for k in known] for e in practised]
    assert all(episode["earlier"] for episode in taken) and not all(e["success"] for e in taken)
    images = {e.provenance.seed for e in EpisodeStore(tmp_path / "practice").episodes}
    assert images == {e["seed"] for e in practised}, "the last round's is for nobody"
    rl = events(tmp_path)[f"rl:{TASK}@2"]
    assert rl["decisions"] < 40 + 12, "what was recalled is no practice of this round"
    per_decision = config.sac.updates_per_decision
    assert rl["updates"] == int(per_decision * len(latents(tmp_path, "online", f"{TASK}@2")))


def test_what_other_words_solve_is_learnt_from_under_its_own(
    config: Config, tmp_path: Path
) -> None:
    """And the same command plays the same again."""
    config = replace(
        config,
        expert_tasks=("left-disc", "right-square"),
        sac=replace(config.sac, steps=20, demonstrations=6, other_words=True, keep_failures=True),
        harvest=replace(config.harvest, from_training=True),
        eval=replace(config.eval, interim=0),
    )
    config = replace(config, expert=replace(config.expert, dataset="", episodes=4), method="irevla")
    for name in ("one", "two"):
        with pytest.MonkeyPatch.context() as patch:
            if name == "two":
                patch.setattr(Kept, "_keep", stop_keeping(after=3))
                with pytest.raises(KeyboardInterrupt):
                    play(tmp_path / name, config)
        play(tmp_path / name, config)
    assert files(tmp_path / "one", *LEFT) == files(tmp_path / "two", *LEFT)

    found = events(tmp_path / "one")[f"zero-shot:{TASK}"]
    own = POINTMASS.task(TASK).instruction
    told = found["words"]
    assert set(told) <= {own, *(POINTMASS.task(each).instruction for each in config.expert_tasks)}
    assert sum(tried for _, tried in told.values()) == found["tried"] > sum(map(len, [told]))
    others = sum(solved for words, (solved, _) in told.items() if words != own)
    assert others > 0 and found["kept"] == 6

    policy = VLAPolicy.from_pretrained(config.from_checkpoint).eval()
    kept = {e.provenance.seed: e for e in EpisodeStore(tmp_path / "one" / "online")}
    store = latents(tmp_path / "one", "demonstrations")
    for index, facts in enumerate(store.episodes):
        episode = kept[facts["seed"]]
        assert episode.instruction == own and episode.success
        seen = Observation.of(episode.images, [own] * len(episode))
        with torch.no_grad():
            expected = policy.encode(seen).rounded().tokens
        encoded = store.read(index)
        torch.testing.assert_close(encoded.features.tokens, expected.float(), atol=2e-2, rtol=2e-2)
        assert encoded.actions.tolist() == episode.actions.tolist()
    failed = [e for e in latents(tmp_path / "one", "online").episodes if e.get("zero_shot")]
    assert len(failed) == found["tried"] - 6


def stop_keeping(*, after: int) -> Any:
    keep, kept = Kept._keep, [0]

    def stopping(*args: Any, **stores: Any) -> None:
        if kept[0] == after:
            raise KeyboardInterrupt
        kept[0] += 1
        keep(*args, **stores)

    return stopping


def files(directory: Path, *patterns: str) -> dict[str, bytes]:
    """What a run left, byte for byte: `patterns` of paths in it."""
    paths = [path for pattern in patterns for path in sorted(directory.glob(pattern))]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


LEFT = ("checkpoints/*/*.safetensors", "online/data/*/*", "latents/*/*/records.bin")


@pytest.fixture(scope="module")
def uninterrupted(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A run that was never stopped, and its settings."""
    config = replace(
        config,
        env=replace(config.env, workers=2, envs_per_worker=2),
        sac=replace(config.sac, steps=120),
        harvest=replace(config.harvest, from_training=True),
        eval=replace(config.eval, interim=0),
    )
    directory = tmp_path_factory.mktemp("whole")
    play(directory, config)
    return config, directory


@pytest.mark.parametrize("updates", [3, 45])
def test_interrupted_anywhere_it_ends_with_the_same_bits(
    uninterrupted: tuple[Config, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    updates: int,
) -> None:
    """In the midst of a leg: what was played after the checkpoint is played again, to the same
    bits."""
    config, whole = uninterrupted
    update = SAC.update

    def interrupted(self: SAC, *args: Any) -> dict[str, float]:
        if self.updates == updates:
            raise KeyboardInterrupt
        return update(self, *args)

    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(SAC, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            play(broken, config)
    assert 0 < len(latents(broken, "online")) < 120 and f"rl:{TASK}" not in events(broken)
    torch.rand(3)  # whatever else the process draws
    play(broken, config)
    assert files(broken, *LEFT) == files(whole, *LEFT)
    assert len(files(broken, *LEFT)) >= 4 + 4


def test_a_deleted_buffer_of_demonstrations_is_made_again(config: Config, tmp_path: Path) -> None:
    """As is advised where it is damaged."""
    config = replace(
        config, sac=replace(config.sac, steps=30), eval=replace(config.eval, interim=0)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "log", stop_at(rows=1))
        with pytest.raises(KeyboardInterrupt):
            play(tmp_path, config)
    root = tmp_path / "latents" / TASK / "demonstrations"
    before = (root / "records.bin").read_bytes()
    shutil.rmtree(root)
    play(tmp_path, config)
    assert (root / "records.bin").read_bytes() == before
    assert len(latents(tmp_path, "demonstrations").episodes) == 3


def test_where_every_gradient_is_exactly_zero_it_says_so(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sac = replace(config.sac, anchor=0.0)
    value = sac_module.soft_value
    monkeypatch.setattr(sac_module, "soft_value", lambda *args, **kw: 0 * value(*args, **kw))
    with pytest.raises(UserError, match=rf"^rl:{TASK}: nothing was learnt, for every gradient"):
        play(tmp_path, replace(config, sac=sac))


def test_every_image_is_encoded_once(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Server._encode
    encoded = [0]

    def counted(self: Any, observation: Observation) -> Any:
        encoded[0] += len(observation) if getattr(self.recorder, "_latents", False) else 0
        return encode(self, observation)

    monkeypatch.setattr(Server, "_encode", counted)
    play(tmp_path, config)
    stored = 0
    for name in ("demonstrations", "online"):
        stored += len(latents(tmp_path, name))
    tried = events(tmp_path)[f"zero-shot:{TASK}"]["tried"]
    failed = (tried - 3) * 12
    assert stored <= encoded[0] <= stored + failed + 8 * 12, "those of episodes that were cut short"


@pytest.mark.timeout(400)  # several processes start, the learner's at low priority
@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)]
)
def test_actor_and_learner_apart(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    """The learner in a process of its own: interrupted, it saves; one that dies, or falls silent,
    is replaced by another that goes on from there; in the end all that was owed is done."""
    config = replace(config, sac=replace(config.sac, async_learner=True))
    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "log", stop_at(rows=3))
        with pytest.raises(KeyboardInterrupt):
            play(tmp_path, config)
    saved = max(int(path.name[-6:]) for path in (tmp_path / "checkpoints").glob("rl-*"))
    begun = len(latents(tmp_path, "online").episodes)
    assert saved > 0 and begun > 0

    finish = AsyncLearner.finish
    hit = [0]

    def hit_it(self: AsyncLearner) -> None:
        self._popen.send_signal(how)
        hit[0] += 1
        finish(self)

    monkeypatch.setattr(async_learner, "PATIENCE", 20.0)
    monkeypatch.setattr(AsyncLearner, "finish", hit_it)
    play(tmp_path, config)
    assert hit == [1]
    done = events(tmp_path)[f"rl:{TASK}"]
    online = latents(tmp_path, "online")
    assert done["updates"] == len(online) // 2 and len(online.episodes) > begun
    before, after = (
        VLAPolicy.from_pretrained(path)
        for path in (config.from_checkpoint, tmp_path / "checkpoints" / f"rl-{TASK}")
    )
    assert weights_hash(after.vlm) == weights_hash(before.vlm)
    assert weights_hash(after.action_head) != weights_hash(before.action_head)


def stop_at(*, rows: int) -> Any:
    """Ctrl-C at the log's row of that number in stage 1."""
    seen = [0]

    def log(self: Any, stage: str, step: int, **values: float) -> None:
        seen[0] += stage.startswith("rl:")
        time.sleep(0.3 * stage.startswith("rl:"))  # the learner has a moment to learn
        if seen[0] == rows:
            raise KeyboardInterrupt

    return log


def test_the_actor_reads_only_whole_weights() -> None:
    policies = [build_policy(CONFIG.model, action_dim=3, image_size=32) for _ in range(2)]
    written, read = (
        SoftActor(policy.action_head, discrete_gripper=True, std=0.2) for policy in policies
    )
    memory = mmap.mmap(-1, SharedWeights.nbytes(written))
    writer = SharedWeights(memory, written)
    reader = SharedWeights(memory, read)
    assert not reader.read()  # nothing there yet
    writer.publish()
    assert reader.read() and not reader.read()
    assert weights_hash(read) == weights_hash(written)

    torch.nn.init.ones_(written.head.mlp[-1].bias)
    writer.publish()
    before = weights_hash(read)
    whole = float(writer._weights[7])
    writer._weights[7] = 9  # as if the writer were still at it
    assert not reader.read() and weights_hash(read) == before
    writer._weights[7] = whole
    assert reader.read() and weights_hash(read) == weights_hash(written)


def test_a_task_without_any_success_says_what_to_do_and_is_left_out(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = VLAPolicy.from_pretrained(config.from_checkpoint)
    # up and to the right, away from the target
    torch.nn.init.zeros_(policy.action_head.mlp[-1].weight)
    torch.nn.init.constant_(policy.action_head.mlp[-1].bias, 5.0)
    policy.save_pretrained(tmp_path / "stubborn")
    sac = replace(config.sac, attempts=5)
    few = replace(config, sac=sac, from_checkpoint=str(tmp_path / "stubborn"))
    play(tmp_path / "run", few)
    said = "left-disc-new in none of 5 episodes, so that SAC has nothing to begin with"
    assert said in " ".join(capsys.readouterr().err.split())
    done = events(tmp_path / "run")
    assert said in done[f"zero-shot:{TASK}"]["note"] and done[f"rl:{TASK}"]["updates"] == 0
    assert done[f"harvest:{TASK}"]["tried"] == 0 and f"evaluated sl:{TASK}" in done
    write_report(tmp_path / "run")
    play(tmp_path / "run", few)  # and nothing is played again
    assert events(tmp_path / "run").keys() == done.keys()


def test_it_stops_where_it_has_converged(config: Config, tmp_path: Path) -> None:
    play(tmp_path, replace(config, sac=replace(config.sac, converged=0.01, window=2, steps=5_000)))
    done = events(tmp_path)[f"rl:{TASK}"]
    assert done["converged"] and done["decisions"] < 5_000


def test_the_policy_executes_what_sacs_actor_does(tmp_path: Path) -> None:
    policy = build_policy(CONFIG.model, action_dim=3, image_size=32)
    policy.discrete_gripper = True
    policy.save_pretrained(tmp_path / "policy")
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    observation = Observation.of(images, ["pick it up"] * 40)
    with torch.no_grad():
        features = policy.encode(observation)
    actor = SoftActor(policy.action_head, discrete_gripper=True, std=0.2)
    executed = actor.act(features, noise=torch.zeros(40, 3), chance=torch.full((40,), 0.5))
    assert set(executed[:, -1].tolist()) == {-1, 1}
    torch.testing.assert_close(policy.decide(features), executed)
    mean = policy.mean(features).detach()
    assert not torch.allclose(mean, executed)  # which supervised learning fits
    again = VLAPolicy.from_pretrained(tmp_path / "policy")
    np.testing.assert_allclose(again.act(images, "pick it up")[:, :2], executed[:, :2], atol=1e-6)

    nothing = np.zeros(40, np.float32)
    flags = np.zeros(40, bool)
    mute = np.zeros((40, 0), np.float32)
    result = StepResult(
        0, images, mute, (None,) * 40, flags.astype(int), (None,) * 40,
        np.zeros((40, 3), np.float32), nothing, flags, flags, flags, images, mute, flags, flags,
    )  # fmt: skip
    jobs = tuple(Job(TASK, seed) for seed in range(40))
    closed = np.zeros(40)
    mean_actor = MeanActor(again)
    for step in range(100):
        seen = View(replace(result, jobs=jobs, step=np.full(40, step)), features, None, 0.0)
        done = mean_actor.act(seen).actions
        assert done is not None
        np.testing.assert_allclose(done[:, :2], executed[:, :2], atol=1e-6)
        # the same chance, whenever it is asked
        np.testing.assert_array_equal(done, mean_actor.act(seen).actions)
        closed += (done[:, 2] > 0).numpy()
    off = closed / 100 - ((1 + mean[:, 2]) / 2).numpy()
    assert np.abs(off).max() < 0.2 and np.abs(off.mean()) < 0.03


@pytest.mark.parametrize(
    ("rl", "gripper", "discrete"),
    [("ppo", True, False), ("sac", True, True), ("sac", False, False)],
)
def test_all_stages_of_a_run_execute_the_gripper_alike(
    config: Config, tmp_path: Path, rl: str, gripper: bool, discrete: bool
) -> None:
    config = replace(config, rl=rl, sac=replace(config.sac, gripper=gripper))
    with open_run(tmp_path / "run", config) as run:
        assert starting_policy(run, POINTMASS).discrete_gripper is discrete
        assert new_policy(run, POINTMASS, SFT).discrete_gripper is discrete


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rl": "sak"}, "did you mean 'sac'"),
        ({"method": "ppo-replay"}, "choose --rl ppo, or method irevla"),
        ({"method": "scratch"}, "frozen VLM"),
        ({"rl": "ppo", "harvest": HarvestConfig(from_training=True)}, "--harvest.no-from-training"),
    ],
)
def test_what_cannot_be_is_told(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"demonstrations": 0}, "positive"),
        ({"attempts": 3}, "cannot give 20"),
        ({"updates_per_decision": 0.0}, "positive"),
        ({"converged": 0.0}, "positive"),
        ({"checkpoint_every": 0}, "positive"),
    ],
)
def test_settings_of_the_stage_that_cannot_be_are_told(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        SACConfig(**change)
