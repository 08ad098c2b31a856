"""Stage 1 on a real arm, interrupted: what was played is kept, for it cannot be played again."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irevla.cli.main import main
from irevla.compute.device import seeded
from irevla.config import Config, EnvConfig, EvalConfig, HarvestConfig, ModelConfig, SACConfig
from irevla.data.replay import LatentEpisode, LatentReplay, reopen
from irevla.envs.suite import RealArm, Suite, load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.errors import UserError
from irevla.evaluation import in_run, saved
from irevla.evaluation.evaluate import Protocol
from irevla.models.policy import VLAPolicy, build_policy
from irevla.rollout import played as played_by
from irevla.rollout.demonstrations import open_store
from irevla.rollout.episodes import EpisodeRecorder, Outcome
from irevla.runs.run import Run, open_run
from irevla.stages import harvest, sac, zero_shot
from irevla.stages.contract import note_failure, still_to_play
from irevla.stages.keeping import Kept, open_kept
from irevla.storage.metrics import Metrics, read_metrics
from irevla.tasks import BLOCK, Purpose, Stage, TaskLists
from irevla.types import Features

TASK = "left-disc"
STAGE = Stage("rl", TASK)
CONFIG = Config(
    suite="pointmass",
    rl="sac",
    threads=1,
    env=EnvConfig(image_size=32, horizon=12, workers=1, envs_per_worker=1),
    model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
    sac=SACConfig(
        steps=60, demonstrations=3, attempts=60, gripper=False, batch=16, utd=1, critics=2,
        warmup=10, checkpoint_every=20, updates_per_decision=0.1, converged=2.0,
    ),
    harvest=HarvestConfig(episodes=3, attempts=60),
)  # fmt: skip


def suite_of(*, real: bool) -> Suite:
    """The toy, which for our side of the pipe moves a real arm."""
    arm = RealArm(
        authorize=lambda who: None,
        dry_run=lambda: False,
        only_policy=lambda: "",
        env_config=lambda config: config,
    )
    return replace(load_suite("pointmass"), real_arm=arm if real else None)


def going_one_way() -> VLAPolicy:
    """A policy that goes one way, whatever it sees: now and then it succeeds."""
    with seeded(0):
        policy = build_policy(CONFIG.model, action_dim=2, image_size=32)
    with torch.no_grad():
        policy.action_head.mlp[-1].weight.mul_(0.1)
        policy.action_head.mlp[-1].bias.copy_(torch.atanh(torch.tensor([-0.5, 0.9])))
    return policy


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(tmp_path / "run", CONFIG) as run:
        yield run


def recorded(run: Run, name: str) -> LatentReplay:
    return reopen(run.directory / "latents" / TASK / name)


class Jobs:
    """Remembers which jobs were to be played, each time."""

    def __init__(self, module: Any, patch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[int]] = []
        in_order = module.in_order

        def noted(outcomes: Any, jobs: list[Job], given_up: list[Job]) -> Any:
            self.asked.append([job.seed for job in jobs])
            return in_order(outcomes, jobs, given_up)

        patch.setattr(module, "in_order", noted)


def stop_after(calls: int, function: Any) -> Any:
    """`function`, and Ctrl-C after so many calls."""
    left = [calls]

    def stopping(*what: Any, **more: Any) -> None:
        function(*what, **more)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return stopping


@pytest.mark.parametrize("real", [True, False], ids=["real arm", "simulator"])
def test_zero_shot_successes_are_not_played_again_on_a_real_arm(
    real: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_of(real=real)
    policy = going_one_way()
    online = open_store(suite, CONFIG.env, run.directory / "online", kind="online")
    kept = open_kept(run, policy, STAGE, suite=suite, online=online)
    store = kept.demonstrations
    asked = Jobs(zero_shot, monkeypatch).asked

    def collect() -> None:
        zero_shot.collect_successes(run, policy, STAGE.then("zero-shot"), suite=suite, kept=kept)

    with monkeypatch.context() as patch:
        patch.setattr(Kept, "_keep", stop_after(2, Kept._keep))
        with pytest.raises(KeyboardInterrupt):
            collect()
    done = {episode["seed"] for episode in store.episodes}
    assert len(done) == 2
    collect()
    again = set(asked[1]) & done
    assert again == (set() if real else done)
    seeds = [episode["seed"] for episode in store.episodes]
    assert len(set(seeds)) == len(seeds) == 3
    record = run.journal.done(f"zero-shot:{TASK}")
    assert record is not None and record["kept"] == 3 <= record["tried"]
    assert record["decisions"] >= len(store)


def test_a_harvest_is_not_played_again_on_a_real_arm(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_of(real=True)
    policy = going_one_way()
    online = open_store(suite, CONFIG.env, run.directory / "online", kind="online")
    asked = Jobs(harvest, monkeypatch).asked
    stage = STAGE.then("harvest")
    with monkeypatch.context() as patch:
        patch.setattr(online, "append", stop_after(2, online.append))
        with pytest.raises(KeyboardInterrupt):
            harvest.run_harvest(run, policy, stage, suite=suite, online=online)
    done = {info.provenance.seed for info in online.episodes}
    harvest.run_harvest(run, policy, stage, suite=suite, online=online)
    assert len(done) == 2 and not set(asked[1]) & done and len(online) == 3
    record = run.journal.done(stage.name)
    assert record is not None and record["kept"] == 3 <= record["tried"]


@pytest.mark.parametrize("real", [True, False], ids=["real arm", "simulator"])
def test_practice_is_not_rewound_on_a_real_arm(
    real: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_of(real=real)
    online = open_store(suite, CONFIG.env, run.directory / "online", kind="online")

    def practise() -> None:
        sac.run_sac(run, going_one_way(), STAGE, suite=suite, online=online)

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "log", stop_after(3, Metrics.log))
        with pytest.raises(KeyboardInterrupt):
            practise()
    begun = recorded(run, "online").episodes
    assert len(begun) == 3

    kept: list[int] = []
    rewind = LatentReplay.rewind

    def noted(self: LatentReplay, episodes: int) -> None:
        kept.append(episodes)
        rewind(self, episodes)

    monkeypatch.setattr(LatentReplay, "rewind", noted)
    practise()
    whole = recorded(run, "online").episodes
    assert kept == ([] if real else [0])
    assert len(whole) > 3
    assert (whole[:3] == begun) == real  # their time as well: they were not written again
    bits = [episode["crc32"] for episode in begun]
    assert [episode["crc32"] for episode in whole[:3]] == bits, "a simulator plays them again"
    seeds = [episode["seed"] for episode in whole]
    assert len(set(seeds)) == len(seeds)


def test_where_enough_have_succeeded_nothing_is_played_on_an_arm(run: Run) -> None:
    jobs = [Job(TASK, seed) for seed in range(5)]
    arm, simulator = suite_of(real=True), suite_of(real=False)
    done = {1: 4, 3: 6}
    assert still_to_play(run, arm, STAGE, jobs, done, wanted=2) == ([], 2, 2, 10)
    # A simulator plays them again: the failures between them count too.
    assert still_to_play(run, simulator, STAGE, jobs, done, wanted=2) == (jobs, 0, 0, 0)
    left, *counts = still_to_play(run, arm, STAGE, jobs, done, wanted=3)
    assert ([job.seed for job in left], counts) == ([0, 2, 4], [2, 2, 10])
    assert still_to_play(run, simulator, STAGE, jobs, {1: 4}, wanted=3) == (jobs, 0, 0, 0)


def test_failures_on_an_arm_count_after_a_break_and_are_not_watched_again(run: Run) -> None:
    jobs = [Job(TASK, seed) for seed in range(5)]
    arm, simulator = suite_of(real=True), suite_of(real=False)
    for suite, other in ((arm, STAGE.then("harvest")), (arm, STAGE), (simulator, STAGE)):
        note_failure(run, suite, other, Outcome(jobs[2], False, np.zeros((7, 2), np.float32)))
    left, *counts = still_to_play(run, arm, STAGE, jobs, {1: 4}, wanted=2)
    assert ([job.seed for job in left], counts) == ([0, 3, 4], [2, 1, 11])
    assert len([record for record in run.journal if "failed in" in record["event"]]) == 2


def test_an_evaluation_on_an_arm_has_the_arms_own_time_and_no_second_environment() -> None:
    # For many environments together the time to answer is longer: on an arm a dead worker would
    # have been waited for for hours.
    env = EnvConfig(workers=1, envs_per_worker=1, timeout=600.0)
    on_arm, simulated = (
        Protocol(suite_of(real=real), (TASK,), env, 1, 0).together() for real in (True, False)
    )
    assert on_arm == env
    assert simulated.envs_per_worker > 1 and simulated.timeout > env.timeout


# --- Ctrl-C at a prompt: an episode is told before the next one is asked for


def test_an_arm_rests_until_its_last_episode_was_taken() -> None:
    jobs = [Job(TASK, seed) for seed in (1, 2)]
    still = np.zeros((1, 2), np.float32)
    with VectorEnv(suite_of(real=True), CONFIG.env, iter(jobs)) as vec:
        for number in range(2):
            result = vec.recv(0)
            assert result.playing.all()
            while result.playing.any():
                vec.send(0, still)
                result = vec.recv(0)
            assert result.ended.all() and result.previous == (jobs[number],)
            assert vec.deal_next() == (number == 0)


def test_episodes_of_a_test_are_not_played_again_on_a_real_arm(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_of(real=True)
    policy = going_one_way()
    tasks = TaskLists((), (TASK,), ())
    played: list[int] = []
    server = played_by.Server

    class Watched(server):  # type: ignore[misc, valid-type]
        def serve(self, rounds: int | None = None) -> Any:
            for outcome in super().serve(rounds):
                played.append(outcome.job.seed)
                yield outcome

    monkeypatch.setattr(played_by, "Server", Watched)
    run = replace(run, config=replace(CONFIG, eval=EvalConfig(episodes=5, interim=0)))
    with monkeypatch.context() as patch:
        patch.setattr(run.journal, "append", stop_after(3, run.journal.append))
        with pytest.raises(KeyboardInterrupt):
            in_run.evaluate_stage(run, policy, suite, tasks, STAGE)
    in_run.evaluate_stage(run, policy, suite, tasks, STAGE)
    assert len(played) == len(set(played)) == 5
    record = run.journal.done(f"evaluated {STAGE.name}")
    assert record is not None and record["rows"][0]["episodes"] == 5


def test_who_leaves_an_evaluation_on_an_arm_sees_what_was_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    going_one_way().save_pretrained(tmp_path / "policy")
    monkeypatch.setattr(saved, "load_suite", lambda name: suite_of(real=True))
    real = saved.evaluate_policy

    def leaving(*what: Any, keep: Any, **more: Any) -> Any:
        return real(*what, keep=stop_after(2, keep), **more)

    monkeypatch.setattr(saved, "evaluate_policy", leaving)
    command = ["eval", str(tmp_path / "policy"), "--suite", "pointmass", "--tasks", TASK, "--json"]
    assert main([*command, "--episodes", "5"]) == 130
    said = capsys.readouterr()
    (row,) = json.loads(said.out)
    assert row["episodes"] == 2 and "goes on" not in said.err


def test_an_evaluation_on_an_arm_that_cannot_go_on_shows_what_was_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where a server that encodes is lost again and again."""
    going_one_way().save_pretrained(tmp_path / "policy")
    monkeypatch.setattr(saved, "load_suite", lambda name: suite_of(real=True))
    real = saved.evaluate_policy
    kept: list[Any] = []

    def losing(*what: Any, keep: Any, **more: Any) -> Any:
        def noted(played: Any) -> None:
            keep(played)
            kept.append(played)
            if len(kept) == 2:
                raise UserError("rollout actor 0 was lost 4 times in a row")

        return real(*what, keep=noted, **more)

    monkeypatch.setattr(saved, "evaluate_policy", losing)
    command = ["eval", str(tmp_path / "policy"), "--suite", "pointmass", "--tasks", TASK, "--json"]
    assert main([*command, "--episodes", "5"]) == 2
    said = capsys.readouterr()
    (row,) = json.loads(said.out)
    assert row["episodes"] == 2 and "lost 4 times in a row" in said.err


# --- what was encoded already, and what people showed


@pytest.mark.parametrize("keep", [True, False])
def test_failed_zero_shot_episodes_begin_the_online_buffer(
    keep: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, sac=replace(CONFIG.sac, keep_failures=keep))
    run = replace(run, config=config)
    suite = suite_of(real=False)
    online = open_store(suite, CONFIG.env, run.directory / "online", kind="online")
    sac.run_sac(run, going_one_way(), STAGE, suite=suite, online=online)
    zero_shot = run.journal.done(f"zero-shot:{TASK}")
    done = run.journal.done(STAGE.name)
    assert zero_shot is not None and done is not None
    practice = recorded(run, "online")
    before = [episode for episode in practice.episodes if episode.get("zero_shot")]
    failed = zero_shot["tried"] - zero_shot["kept"]
    assert failed > 0 and len(before) == (failed if keep else 0)
    assert list(practice.episodes[: len(before)]) == before
    assert not any(episode["success"] for episode in before)
    own = len(practice) - sum(episode["decisions"] for episode in before)
    assert done["decisions"] == own >= config.sac.steps, "no robot time of stage 1"
    assert done["updates"] == int(config.sac.updates_per_decision * len(practice))


def test_a_stage_with_them_that_was_stopped_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, sac=replace(CONFIG.sac, keep_failures=True, checkpoint_every=2))
    suite = suite_of(real=False)
    hashes = []
    for name in ("whole", "stopped"):
        policy = going_one_way()
        with open_run(tmp_path / name, config) as run:
            online = open_store(suite, CONFIG.env, run.directory / "online", kind="online")
            if name == "stopped":
                with monkeypatch.context() as patch:
                    patch.setattr(Kept, "_keep", stop_after(6, Kept._keep))
                    with pytest.raises(KeyboardInterrupt):
                        sac.run_sac(run, policy, STAGE, suite=suite, online=online)
                policy = going_one_way()
            sac.run_sac(run, policy, STAGE, suite=suite, online=online)
            hashes.append(policy.hash())
    assert hashes[0] == hashes[1]


def outcome_of(person: list[bool], reward: float) -> Outcome:
    count = len(person)
    features = Features(torch.zeros(count, 1, 2), torch.ones(count, 1, dtype=torch.bool))
    actions = torch.arange(2.0 * count).reshape(count, 2)
    rewards = torch.tensor([0.0] * (count - 1) + [reward])
    latents = LatentEpisode(features, actions, rewards)
    return Outcome(Job(TASK, 1), False, actions.numpy(), None, latents, np.array(person))


def test_what_a_person_showed_is_from_their_first_step_to_the_end() -> None:
    outcome = outcome_of([False, True, True, False, True], 1.0)
    shown = outcome.shown()
    assert outcome.interventions == 2 and shown is not None and len(shown) == 4
    assert shown.actions[0].tolist() == [2.0, 3.0] and shown.rewards[-1] == 1.0
    assert outcome_of([True, False], 0.0).shown() is None, "it failed"
    assert outcome_of([False, False], 1.0).shown() is None, "nobody took over"
    assert outcome_of([True, True], 1.0).interventions == 1


def test_interventions_go_to_the_demonstrations_too(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third episode, as if a person had taken over from its second decision on."""
    suite = suite_of(real=True)
    recorder = EpisodeRecorder._outcome

    def helped(self: Any, result: Any, slot: int, job: Job, partial: Any) -> Outcome:
        outcome = recorder(self, result, slot, job, partial)
        if job.seed % 3 or outcome.latents is None or job.seed // BLOCK != Purpose.RL:
            return outcome
        person = np.arange(outcome.length) > 0
        outcome.latents.rewards[-1] = 1.0
        return replace(outcome, success=False, person=person)

    monkeypatch.setattr(EpisodeRecorder, "_outcome", helped)
    online = open_store(suite, CONFIG.env, run.directory / "online", kind="online")
    sac.run_sac(run, going_one_way(), STAGE, suite=suite, online=online)
    practice = [e for e in recorded(run, "online").episodes if e["seed"] % 3 == 0]
    shown = [e for e in recorded(run, "demonstrations").episodes if e.get("person")]
    assert practice and [e["seed"] for e in shown] == [e["seed"] for e in practice]
    lengths = [e["decisions"] - 1 for e in practice]
    assert [e["decisions"] for e in shown] == lengths
    found = read_metrics(run.directory / "metrics.jsonl")
    rows = [row for row in found if row.get("interventions")]
    assert [row["intervention_decisions"] for row in rows] == lengths


# --- Tasks that undo each other


def test_after_each_success_the_other_task_puts_things_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = suite_of(real=True)
    assert real.real_arm is not None
    pair = {TASK: "right-disc", "right-disc": TASK}
    suite = replace(real, real_arm=replace(real.real_arm, partner=lambda task: pair.get(task, "")))
    played: list[tuple[str, int, bool]] = []
    play_leg = sac._play_leg

    def noted(*args: Any) -> Iterator[Outcome]:
        for outcome in play_leg(*args):
            played.append((outcome.job.task, outcome.job.seed, outcome.success))
            yield outcome

    monkeypatch.setattr(sac, "_play_leg", noted)
    online = open_store(suite, CONFIG.env, run.directory / "online", kind="online")
    sac.run_sac(run, going_one_way(), STAGE, suite=suite, online=online)
    own = [each for each in played if each[0] == TASK]
    assert len(own) < len(played), "something succeeded"
    for before, after in itertools.pairwise(played):
        went_back = after[0] == "right-disc"
        assert went_back == (before[0] == TASK and before[2])
        assert not went_back or after[1] == before[1]
    practised = recorded(run, "online").episodes
    assert [(each["seed"], each["success"]) for each in practised] == [
        (seed, success) for _, seed, success in own
    ]
    assert run.journal.done(STAGE.name)["decisions"] == sum(e["decisions"] for e in practised)  # type: ignore[index]
