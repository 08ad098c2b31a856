"""Every setting of every config changes something: none is accepted and ignored.

`SETTINGS` says of each field who sees it: a stage of a run, or what it is made of, with episodes
that nobody played. A field without a line here fails; so does one whose other value changes
nothing.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from recorded import IMAGES, VIDEOS
from two_cameras import TWO

from irevla import algorithm
from irevla.compute import engine
from irevla.config import (
    METHODS,
    AugmentConfig,
    Config,
    EnvConfig,
    EvalConfig,
    ExpertConfig,
    HarvestConfig,
    ModelConfig,
    PPOConfig,
    PretrainConfig,
    SACConfig,
    SFTConfig,
)
from irevla.data.buffers import RolloutBatch
from irevla.data.episodes import EpisodeStore
from irevla.data.replay import LatentEpisode
from irevla.envs import vector
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.errors import UserError
from irevla.evaluation import in_run
from irevla.evaluation.evaluate import Evaluation
from irevla.learners.losses import gaussian_log_prob
from irevla.learners.sft import SFT as Supervised
from irevla.models.policy import VLAPolicy, build_policy
from irevla.pretraining import fit as pretraining
from irevla.pretraining.corpus import Corpus, RenderSettings
from irevla.pretraining.questions import Question
from irevla.rollout import demonstrations, fleet, played, practice
from irevla.rollout.actors import ScriptedExpert
from irevla.rollout.batches import Collector, Finished, RolloutStats
from irevla.rollout.demonstrations import open_demonstrations, open_store
from irevla.rollout.episodes import EpisodeRecorder, Outcome
from irevla.rollout.serve import Server
from irevla.runs.run import Run, open_run
from irevla.stages import keeping, pipeline, zero_shot
from irevla.stages import ppo as ppo_stage
from irevla.stages import sac as sac_stage
from irevla.stages.harvest import run_harvest
from irevla.stages.ppo import run_ppo
from irevla.stages.sac import run_sac
from irevla.stages.start import expert_dataset, new_policy
from irevla.stages.supervised import run_supervised
from irevla.storage.metrics import read_metrics
from irevla.tasks import BLOCK, SFT, Purpose, Stage, TaskLists
from irevla.types import Episode, Features, Provenance, weights_hash

POINTMASS = load_suite("pointmass")
TASKS = TaskLists(("left-disc",), ("left-disc-new",), ("left-square-orange",))
TURN = Stage("rl", "left-disc-new")
FEW = SFTConfig(
    steps=4, batch=8, warmup=1, validate_every=2, lr=1e-2, augment=AugmentConfig(words=0.5)
)
BASE = Config(
    suite="pointmass",
    expert_tasks=TASKS.expert,
    rl_tasks=TASKS.rl,
    unseen_tasks=TASKS.unseen,
    device="cpu",
    threads=1,
    env=EnvConfig(image_size=16, horizon=12, workers=2, envs_per_worker=2),
    expert=ExpertConfig(episodes=4),
    model=ModelConfig(vlm="tiny-random", width=16, layers=1, head_groups=4, head_hidden=8),
    sft=FEW,
    sl=FEW,
    ppo=PPOConfig(
        steps=32, rollout=4, epochs=2, minibatch=4, warmup=1, converged=2.0, checkpoint_every=2
    ),
    sac=SACConfig(
        steps=40,
        demonstrations=3,
        attempts=6,
        batch=4,
        utd=2,
        critics=3,
        warmup=3,
        converged=2.0,
        checkpoint_every=4,
    ),
    harvest=HarvestConfig(episodes=3, attempts=6, noise=0.5),
    eval=EvalConfig(episodes=3, interim=2, videos=True),
)
SAC = {"rl": "sac"}


@contextmanager
def new_run(config: Config, folder: Path) -> Iterator[tuple[Run, VLAPolicy]]:
    with open_run(folder / "run", config) as run:
        yield run, new_policy(run, POINTMASS, SFT)


def curves(run: Run) -> list[Any]:
    """What was logged, but for when and how long."""
    rows = read_metrics(run.directory / "metrics.jsonl")
    return [
        {name: value for name, value in row.items() if "time" not in name and "second" not in name}
        for row in rows
    ]


# --- What is made: environments, demonstrations, policies


def environments(config: Config, folder: Path) -> Any:
    """How an environment looks and moves, and how long nothing may happen in it."""
    lengths = []
    for settings in (config.env, config.env.for_training()):
        env = TWO.make("left-disc", settings)
        image, _ = env.reset(seed=0)
        ended = False
        length = 0
        while not ended:
            _, _, _, ended, _ = env.step(np.zeros(2, np.float32))
            length += 1
        lengths.append(length)
    env.reset(seed=0)
    moved = env.step(env.unwrapped.expert_action())[0]
    return image.shape, lengths, moved.tolist(), TWO.state_dim(config.env)


def workers(config: Config, folder: Path) -> Any:
    """Which processes are started, and how long they may take to answer."""
    started: list[Any] = []
    kind = vector.WorkerProcess

    def process(greeting: dict[str, Any], *, timeout: float) -> MagicMock:
        started.append((greeting["buffers"]["n"], timeout))
        return MagicMock(spec=kind, buffers=MagicMock())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector, "hire", process)
        VectorEnv(POINTMASS, config.env, iter([Job("left-disc", seed) for seed in range(100)]))
    return started


def lost_episodes(config: Config, folder: Path) -> Any:
    """Whether environments that fail end everything."""
    jobs = [Job("raise", 0), *(Job("timeout", seed) for seed in range(9))]
    suite = load_suite("scripted_suite:SCRIPTED")
    env = replace(config.env, workers=1, horizon=3)
    try:
        with VectorEnv(suite, env, iter(jobs), max_retries=0) as vec:
            server = Server(vec, ScriptedExpert(), EpisodeRecorder(vec))
            return len(list(server.serve()))
    except UserError as error:
        return str(error)


def dataset(config: Config, folder: Path) -> Any:
    """Which demonstrations are played, and how; or what is wrong with the dataset named."""
    played: list[Any] = []

    def play_expert(suite: Any, env: EnvConfig, jobs: Sequence[Job]) -> Iterator[Outcome]:
        played.append((env.horizon, tuple(jobs)))
        return iter(())

    if config.expert.dataset:
        open_store(POINTMASS, config.env, Path(config.expert.dataset))
    with pytest.MonkeyPatch.context() as patch, open_run(folder / "run", config) as run:
        patch.setattr(demonstrations, "play_expert", play_expert)
        with pytest.raises(UserError) as error:
            expert_dataset(run, POINTMASS, TASKS)
    return played[:1], str(error.value).partition("(")[0]


def recorded(config: Config, folder: Path) -> Any:
    """What is taken from a dataset of others, or what is wrong with it."""
    try:
        return open_demonstrations(POINTMASS, TASKS.expert, config.expert, env=config.env).counts()
    except UserError as error:
        return str(error)


def policy(config: Config, folder: Path) -> Any:
    """A new policy."""
    with new_run(config, folder) as (_, made):
        on_cpu = made.device.type == "cpu"
        return made.device.type, made.hash() if on_cpu else "", made.discrete_gripper


def acting(config: Config, folder: Path) -> Any:
    """What a new policy executes before it looks again."""
    with new_run(config, folder) as (_, made):
        return made.act(np.zeros((16, 16, 3), np.uint8), "reach the disc").tolist()


def scaled(config: Config, folder: Path) -> Any:
    """What a new policy calls -1 and 1, where demonstrations use a little of what there is."""
    store = open_store(POINTMASS, config.env, folder / "expert")
    store.append(episode(Job("left-disc", 100), success=True))
    with open_run(folder / "run", config) as run:
        return new_policy(run, POINTMASS, SFT, store).native(torch.tensor([[-1.0, 1.0]])).tolist()


def pretrained(config: Config, folder: Path) -> Any:
    """A policy on a VLM of transformers, or what is wrong with what is asked of it."""
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    from vlm_families import save

    if not Path(config.model.vlm).exists():
        save("llava", Path(config.model.vlm))
    try:
        made = build_policy(config.model, action_dim=2, image_size=16)
    except UserError as error:
        return str(error)
    vlm = made.vlm.model
    trained = [name for name, value in made.named_parameters() if "lora" in name]
    layers = vlm.get_decoder().layers
    compiled = all(layer._compiled_call_impl is not None for layer in layers)
    return trained, str(vlm.dtype), vlm.is_activation_checkpointing, compiled


# --- The stages


def episode(job: Job, *, success: bool) -> Episode:
    """One that nobody played."""
    rng = np.random.default_rng(job.seed)
    images = rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    actions = rng.uniform(-1, 1, (4, 2)).astype(np.float32)
    made = Provenance("pointmass", job.task, job.seed, "rl", policy="0" * 64)
    text = "reach the red disc" if job.seed % 2 else "reach the disc"
    return Episode(images, actions, np.ones(4, np.float32), text, success, made)


def supervised(config: Config, folder: Path, *, stage: Stage) -> Any:
    """What is learnt from a few episodes, half of them with a colour's name; D_RL has one of the
    two tasks of D_e."""
    stores = []
    for name, other in {"expert": "left-square-orange", "online": "left-disc"}.items():
        store = open_store(POINTMASS, config.env, folder / name, kind=name)
        jobs = [Job(other if seed % 3 else "left-disc", 100 + seed) for seed in range(8)]
        store.extend([episode(job, success=True) for job in jobs])
        stores.append(store)
    expert, online = stores
    used: set[int] = set()
    update = Supervised.update

    def watched(self: Supervised, batch: Any) -> dict[str, float]:
        used.add(torch.get_num_threads())
        return update(self, batch)

    with pytest.MonkeyPatch.context() as patch, new_run(config, folder) as (run, made):
        patch.setattr(Supervised, "update", watched)
        both = online if stage.kind == "sl" else None
        run_supervised(run, made, stage, "all", suite=POINTMASS, expert=expert, online=both)
        return made.hash(), curves(run), used


def engines(config: Config, folder: Path, *, stage: Stage) -> Any:
    """Who is asked to compute a supervised stage, and where its job lies."""
    asked: list[Any] = []

    def started(settings: Any, module: str, job: Sequence[str], *, log: Path) -> Any:
        asked.append((settings, Path(job[0]).name, job[2:]))
        raise Told

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IREVLA_CACHE", str(folder / "cache"))
        patch.setattr(engine, "started", started)
        with suppress(Told):
            supervised(config, folder, stage=stage)
    return asked


class Play(Server[Outcome]):
    """In the place of environments: episodes whose every other seed succeeds."""

    lucky = True  # else none does, but for what the policy begins with

    def __init__(self, vec: Any, actor: Any, recorder: Any) -> None:
        self.vec = vec
        self.actor = actor
        self.recorder = recorder
        self.latencies = [0.0]
        self.env_seconds = 0.0
        self.encode_seconds = 0.0

    def play(self, jobs: Iterator[Job]) -> Iterator[Outcome]:
        for job in jobs:
            JOBS.append(job)
            success = job.seed % 2 == 0 and (self.lucky or job.seed // BLOCK == Purpose.ZERO_SHOT)
            kept = episode(job, success=success) if self.recorder._images else None
            generator = torch.Generator().manual_seed(job.seed)
            tokens = torch.randn(4, 3, 16, generator=generator)
            features = Features(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
            actions = 2 * torch.rand(4, 2, generator=generator) - 1
            rewards = torch.tensor([0.0, 0.0, 0.0, float(success)])
            latents = LatentEpisode(features, actions, rewards)
            yield Outcome(job, success, actions.numpy(), kept, latents)

    def serve(self, rounds: int | None = None) -> Iterator[Outcome]:
        return self.play(self.recorder.jobs)

    def state(self) -> dict[str, Any]:
        return {}


class Unlucky(Play):
    lucky = False


JOBS: list[Job] = []  # that were played


def no_environments(suite: Any, env: EnvConfig, jobs: Iterator[Job], **_: Any) -> Any:
    vec = MagicMock(spec=VectorEnv, suite=suite, jobs=jobs, n=1, workers=1, dropped=0)
    vec.given_up, vec.lost_note, vec.resumed = [], {}, False
    vec.__enter__.return_value = vec
    return vec


class Told(Exception):
    pass


def told(*_: Any, **options: Any) -> Any:
    raise Told


def reinforced(config: Config, folder: Path, *, play: type[Play] = Play) -> Any:
    """Stage 1 by SAC: what is played, learnt, saved and kept."""
    JOBS.clear()
    saved: list[int] = []
    online = open_store(POINTMASS, config.env, folder / "online", kind="online")
    with pytest.MonkeyPatch.context() as patch, new_run(config, folder) as (run, made):
        patch.setattr(keeping, "VectorEnv", no_environments)
        for module in (sac_stage, zero_shot):
            patch.setattr(module, "Server", play)
        patch.setattr(sac_stage, "AsyncLearner", told)
        patch.setattr(sac_stage, "submit_sac", told)
        patch.setattr(sac_stage, "save", lambda *args, **files: saved.append(args[3].updates))
        try:
            run_sac(run, made, TURN, suite=POINTMASS, online=online)
        except Told:
            return "by another process"
        facts = [run.journal.done(TURN.then(kind).name) for kind in ("zero-shot", "rl")]
        facts = [{**(fact or {}), "time": 0} for fact in facts]
        return made.hash(), curves(run), facts, saved, list(JOBS), online.counts()


class Rollouts(Collector):
    """In the place of a collector: numbers for what was seen, of which three in four succeed."""

    lucky = True  # else none does

    def __init__(self, server: Any, *, live: bool) -> None:
        self.actor = server.actor

    @torch.no_grad()
    def collect(self, critic: Any, steps: int) -> tuple[RolloutBatch, RolloutStats]:
        generator = torch.Generator().manual_seed(steps)
        shape = (steps, 2)
        tokens = torch.randn(steps * 2, 3, 16, generator=generator)
        features = Features(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
        acting = self.actor._policy
        mean = acting.mean(features)
        actions = mean + acting.log_std.exp() * torch.randn(mean.shape, generator=generator)
        log_probs = gaussian_log_prob(actions, mean=mean, log_std=acting.log_std)
        terminated = torch.rand(shape, generator=generator) < 0.3
        batch = RolloutBatch(
            features=features,
            actions=actions.view(*shape, 2),
            log_probs=log_probs.view(shape),
            values=critic(features).view(shape),
            next_values=critic(features).view(shape).roll(-1, 0),
            rewards=terminated.float(),
            terminated=terminated,
            truncated=torch.zeros_like(terminated),
            valid=torch.ones_like(terminated),
        )
        lucky = [self.lucky and seed > 0 for seed in range(4)]
        ended = [Finished(Job("left-disc-new", seed), lucky[seed], 3) for seed in range(4)]
        return batch, RolloutStats(steps * 2, tuple(ended), 0, 0.0, 0.0)


class UnluckyRollouts(Rollouts):
    lucky = False


def optimised(config: Config, folder: Path, *, rollouts: type[Rollouts] = Rollouts) -> Any:
    """Stage 1 by PPO: what is learnt and saved."""
    saved: list[int] = []
    with pytest.MonkeyPatch.context() as patch, new_run(config, folder) as (run, made):
        patch.setattr(practice, "VectorEnv", no_environments)
        patch.setattr(practice, "Server", Play)
        patch.setattr(practice, "RolloutRecorder", lambda vec, gamma: None)
        patch.setattr(practice, "Collector", rollouts)
        patch.setattr(ppo_stage, "save", lambda *args, **files: saved.append(args[3].updates))
        run_ppo(run, made, TURN, "head", suite=POINTMASS)
        return made.hash(), curves(run), saved


def harvested(config: Config, folder: Path) -> Any:
    """Line 6: what is played, and what is kept of it."""
    JOBS.clear()
    online = open_store(POINTMASS, config.env, folder / "online", kind="online")

    def recorder(vec: Any, **_: Any) -> Any:
        return MagicMock(spec=EpisodeRecorder, jobs=vec.jobs, _images=True)

    with pytest.MonkeyPatch.context() as patch, new_run(config, folder) as (run, made):
        patch.setattr(played, "VectorEnv", no_environments)
        patch.setattr(played, "EpisodeRecorder", recorder)
        patch.setattr(played, "Server", Play)
        run_harvest(run, made, TURN.then("harvest"), suite=POINTMASS, online=online)
    return list(JOBS), online.counts()


def actors(config: Config, folder: Path) -> Any:
    """Who is asked to play, of which cluster; or that the environments here do."""
    asked: list[Any] = []

    def started(kind: str, **settings: Any) -> Any:
        asked.append(settings)
        raise Told

    with pytest.MonkeyPatch.context() as patch, new_run(config, folder) as (run, made):
        patch.setattr(fleet, "RayActors", started)
        patch.setattr(practice, "VectorEnv", told)
        with suppress(Told):
            run_ppo(run, made, TURN, "head", suite=POINTMASS)
    return asked


def evaluated(config: Config, folder: Path) -> Any:
    """What is measured and filmed."""
    measured: list[Any] = []

    def evaluate(policy: Any, protocol: Any, **_: Any) -> Evaluation:
        measured.append((protocol.tasks, protocol.episodes, protocol.seed))
        return Evaluation([], {})

    def film(suite: Any, task: str, actions: Any, *, env: Any, seed: int) -> Any:
        measured.append((task, seed))
        return [], True

    with pytest.MonkeyPatch.context() as patch, new_run(config, folder) as (run, made):
        patch.setattr(in_run, "evaluate_policy", evaluate)
        patch.setattr(in_run, "film", film)
        patch.setattr(in_run, "write_video", lambda *args, **_: args[0].parent.mkdir(exist_ok=True))
        patch.setattr(in_run, "_read_films", lambda run: (SFT, dict.fromkeys(TASKS.all)))
        in_run.evaluate_stage(run, made, POINTMASS, TASKS, SFT)
        in_run.evaluate_stage(run, made, POINTMASS, TASKS, TURN, interim=True)
        in_run.videos(run, made, POINTMASS, TASKS)
    return measured


def steps(config: Config, folder: Path) -> Any:
    """The steps of Algorithm 1 that are made, of what, and in which order."""
    made: list[Any] = []
    anyone = build_policy(BASE.model, action_dim=2, image_size=16)

    def note(name: str) -> Callable[..., Any]:
        def noted(run: Any, *args: Any, **options: Any) -> Any:
            known = (Stage, TaskLists, str)
            made.append((name, [arg for arg in args if isinstance(arg, known)], [*options]))
            return MagicMock(spec=EpisodeStore) if name == "expert_dataset" else anyone

        return noted

    names = "new_policy starting_policy run_supervised run_ppo run_sac run_harvest evaluate_stage"
    with pytest.MonkeyPatch.context() as patch, open_run(folder / "run", config) as run:
        for name in (*names.split(), "expert_dataset", "baselines", "videos"):
            patch.setattr(algorithm, name, note(name))
        patch.setattr(pipeline, "run_supervised", note("run_supervised"))
        patch.setattr(
            pipeline, "begin_supervised", lambda *_, **__: nullcontext(made.append("begun"))
        )
        patch.setattr(pipeline.SecondStages, "_load", lambda *_: None)
        suite = load_suite(config.suite)
        patch.setattr(algorithm, "preflight", lambda config: (suite, suite.task_lists(config)))
        algorithm.run_algorithm(run)
    return suite.name, made


# --- The small VLM's own pretraining


def questions(size: int) -> Corpus:
    """Images of one colour each; the question is which."""
    colours = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
    pixels = [
        torch.tensor(rgb, dtype=torch.uint8).expand(size, size, 3) for rgb in colours.values()
    ]
    families = ("colour", "caption", "motion")
    asked = [
        [Question(family, "what color is it?", name) for family in families] for name in colours
    ]
    return Corpus(torch.stack(pixels), asked)


def pretrained_vlm(config: PretrainConfig, folder: Path) -> Any:
    """What is rendered, and what is learnt of it, by how many threads and where."""
    noted: list[Any] = []
    update = pretraining._update

    def corpus(root: Path, settings: RenderSettings, **wanted: Any) -> Corpus:
        noted.append((settings, wanted))
        return questions(settings.image_size)

    def watched(*args: Any, **options: Any) -> float:
        noted.append(torch.get_num_threads())
        return update(*args, **options)

    def find(name: str) -> torch.device:
        noted.append(name)
        return torch.device("cpu")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "corpus", corpus)
        patch.setattr(pretraining, "_update", watched)
        patch.setattr(pretraining, "find_device", find)
        patch.setattr(pretraining, "examine", lambda *_, **__: noted.append("exam") or {})
        patch.setattr(
            pretraining, "_finish", lambda *args: noted.append(weights_hash(args[2])) or {}
        )
        pretraining.pretrain(folder / "run", config)
    return noted


# --- Who sees which setting


@dataclass(frozen=True)
class Seen:
    """By whom a setting is seen, and with which other value; `given` is what it takes for that."""

    by: Callable[[Any, Path], Any]
    value: Any
    given: dict[str, Any] = field(default_factory=dict)


stage_0 = partial(supervised, stage=SFT)
stage_2 = partial(supervised, stage=TURN.then("sl"))
SCHEDULE = {
    "steps": 6,
    "batch": 4,
    "lr": 1e-3,
    "warmup": 3,
    "weight_decay": 0.5,
    "grad_clip": 0.01,
    "validate_every": 3,
    "augment.shift": 0,
    "augment.colour": 0.6,
    "augment.colour_named": 0.0,
    "augment.colour_share": 0.2,
    "augment.words": 0.0,
}
PPO = {
    "steps": 48,
    "rollout": 6,
    "epochs": 3,
    "minibatch": 2,
    "std": 0.4,
    "lr": 1e-2,
    "critic_lr": 1e-2,
    "gamma": 0.5,
    "lam": 0.5,
    "clip": 0.001,
    "target_kl": 1e-9,
    "grad_clip": 0.01,
    "warmup": 2,
    "checkpoint_every": 3,
}
SAC_FIELDS = {
    "steps": 60,
    "demonstrations": 2,
    "attempts": 4,
    "other_words": True,
    "keep_failures": True,
    "updates_per_decision": 1.0,
    "async_learner": True,
    "gripper": False,
    "batch": 6,
    "utd": 3,
    "std": 0.4,
    "lr": 1e-2,
    "critic_lr": 1e-2,
    "gamma": 0.5,
    "critics": 5,
    "alpha": 0.5,
    "gripper_entropy": 0.9,
    "anchor": 5.0,
    "grad_clip": 0.01,
    "warmup": 6,
    "checkpoint_every": 5,
}
TORCHRUN = {"compute.stage0": "torchrun"}
RAY = {"compute.stage0": "ray"}
ACTORS = {"rollouts.backend": "ray"}
LLAVA = {"model.vlm": "./llava", "model.lora.rank": 2}
SETTINGS: dict[str, Seen] = {
    "suite": Seen(
        steps, "panda-sim", dict.fromkeys(("expert_tasks", "rl_tasks", "unseen_tasks"), ())
    ),
    "expert_tasks": Seen(steps, ("left-disc", "right-disc")),
    "rl_tasks": Seen(steps, ("right-square-new",)),
    "unseen_tasks": Seen(steps, ("right-disc-outer",)),
    "method": Seen(steps, "irevla-freeze"),
    "rounds": Seen(steps, 2),
    "rl": Seen(steps, "sac"),
    "from_checkpoint": Seen(steps, "another"),
    "seed": Seen(policy, 1),
    "device": Seen(policy, "meta"),
    "threads": Seen(stage_0, 2),
    "env.image_size": Seen(environments, 32),
    "env.action_repeat": Seen(environments, 1),
    "env.cameras": Seen(environments, ("plain", "mirror")),
    "env.state": Seen(environments, True),
    "env.horizon": Seen(environments, 10),
    "env.rl_horizon": Seen(environments, 5),
    "env.workers": Seen(workers, 3),
    "env.envs_per_worker": Seen(workers, 3),
    "env.timeout": Seen(workers, 5.0),
    "env.lost_share": Seen(lost_episodes, 0.5),
    "expert.episodes": Seen(dataset, 5),
    "expert.noisy_fraction": Seen(dataset, 1.0),
    "expert.noise": Seen(dataset, 0.6),
    "expert.horizon": Seen(dataset, 30),
    "expert.burst": Seen(dataset, 4),
    "expert.dataset": Seen(dataset, "demonstrated"),
    "expert.camera": Seen(recorded, "wrist", {"expert.dataset": str(VIDEOS)}),
    "expert.stride": Seen(recorded, 2, {"expert.dataset": str(IMAGES)}),
    "model.vlm": Seen(
        policy, "tiny", {"env.image_size": 64, "model.width": 128, "model.layers": 2}
    ),
    "model.width": Seen(policy, 32),
    "model.layers": Seen(policy, 2),
    "model.head_groups": Seen(policy, 8),
    "model.head_hidden": Seen(policy, 16),
    "model.chunk": Seen(policy, 2),
    "model.action_scale": Seen(scaled, "min-max"),
    "model.execute": Seen(acting, 2, {"model.chunk": 4}),
    "model.lora.rank": Seen(stage_0, 2),
    "model.lora.alpha": Seen(stage_0, 1.0, {"model.lora.rank": 2}),
    "model.lora.targets": Seen(stage_0, r".*tower\..*\.up", {"model.lora.rank": 2}),
    "model.lora.towers": Seen(pretrained, ("vision",), LLAVA),
    "model.revision": Seen(pretrained, "v1", LLAVA),
    "model.dtype": Seen(pretrained, "bfloat16", LLAVA),
    "model.quantize": Seen(pretrained, "4bit", LLAVA),
    "model.gradient_checkpointing": Seen(pretrained, True, LLAVA),
    "model.compile": Seen(pretrained, True, LLAVA),
    **{f"sft.{name}": Seen(stage_0, value) for name, value in SCHEDULE.items()},
    **{f"sl.{name}": Seen(stage_2, value) for name, value in SCHEDULE.items()},
    "mixture.validation": Seen(stage_0, 0.5),
    "mixture.online_share": Seen(stage_2, 0.75),
    "mixture.discount": Seen(stage_2, 0.5),
    "mixture.trained": Seen(stage_2, 0.0),
    **{f"ppo.{name}": Seen(optimised, value) for name, value in PPO.items()},
    "ppo.converged": Seen(optimised, 0.5, {"ppo.window": 8}),
    "ppo.hopeless": Seen(partial(optimised, rollouts=UnluckyRollouts), 8),
    "ppo.window": Seen(optimised, 12, {"ppo.window": 8, "ppo.converged": 0.5}),
    **{f"sac.{name}": Seen(reinforced, value, SAC) for name, value in SAC_FIELDS.items()},
    "sac.converged": Seen(reinforced, 0.4, {**SAC, "sac.window": 4}),
    "sac.hopeless": Seen(partial(reinforced, play=Unlucky), 2, SAC),
    "sac.window": Seen(reinforced, 6, {**SAC, "sac.window": 4, "sac.converged": 0.4}),
    "harvest.episodes": Seen(harvested, 2),
    "harvest.attempts": Seen(harvested, 3),
    "harvest.noise": Seen(harvested, 0.1),
    "harvest.burst": Seen(harvested, 4),
    "harvest.from_training": Seen(reinforced, True, SAC),
    "eval.episodes": Seen(evaluated, 4),
    "eval.interim": Seen(evaluated, 0),
    "eval.seed": Seen(evaluated, 1),
    "eval.videos": Seen(evaluated, False),
    "compute.stage0": Seen(partial(engines, stage=SFT), "torchrun"),
    "compute.stage1": Seen(reinforced, "torchrun", SAC),
    "compute.stage2": Seen(partial(engines, stage=TURN.then("sl")), "torchrun"),
    "compute.processes": Seen(partial(engines, stage=SFT), 2, TORCHRUN),
    "compute.pipeline": Seen(steps, True, {"compute.stage2": "torchrun"}),
    "compute.shard": Seen(partial(engines, stage=SFT), True, TORCHRUN),
    "compute.share": Seen(partial(engines, stage=SFT), "elsewhere", TORCHRUN),
    "compute.ray_address": Seen(partial(engines, stage=SFT), "10.0.0.1:6379", RAY),
    "compute.ray_resource": Seen(partial(engines, stage=SFT), "remote", RAY),
    "rollouts.backend": Seen(actors, "ray"),
    "rollouts.actors": Seen(actors, 2, ACTORS),
    "rollouts.encoder": Seen(actors, "ray"),
    "rollouts.device": Seen(actors, "cpu", ACTORS),
    "rollouts.ray_address": Seen(actors, "10.0.0.1:6379", ACTORS),
    "rollouts.ray_resource": Seen(actors, "sim", ACTORS),
}
SMALL_VLM = PretrainConfig(
    width=16, layers=1, image_size=16, steps=4, batch=3, warmup=1, validate_every=2, threads=1
)
PRETRAINING: dict[str, Any] = {
    "seed": 1,
    "width": 32,
    "layers": 2,
    "image_size": 32,
    "pictures": 5,
    "exam": 5,
    "workers": 3,
    "steps": 5,
    "batch": 4,
    "lr": 1e-2,
    "warmup": 2,
    "weight_decay": 0.5,
    "grad_clip": 0.01,
    "validate_every": 3,
    "device": "cpu",
    "threads": 2,
}


def leaves(config: Any, where: str = "") -> Iterator[str]:
    """The dotted names of all settings."""
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        name = where + each.name
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{name}.")
        else:
            yield name


def changed(config: Any, name: str, value: Any) -> Any:
    """The config with another value for one setting."""
    group, _, rest = name.partition(".")
    if rest:
        value = changed(getattr(config, group), rest, value)
    return replace(config, **{group: value})


def given(config: Any, values: dict[str, Any]) -> Any:
    for name in sorted(values, key=lambda name: name != "model.width"):
        config = changed(config, name, values[name])
    return config


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Seen], Any]:
    """What is seen without the change, looked at once, and again to know that it is the same."""
    known: dict[str, Any] = {}

    def look(seen: Seen) -> Any:
        config = given(BASE, seen.given)
        key = f"{seen.by} {config}"
        if key not in known:
            first, again = (seen.by(config, tmp_path_factory.mktemp("base")) for _ in range(2))
            assert first == again, "what is compared depends on chance"
            known[key] = first
        return known[key]

    return look


def test_no_setting_is_forgotten() -> None:
    assert set(SETTINGS) == set(leaves(BASE))
    assert set(PRETRAINING) == set(leaves(SMALL_VLM))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("name", list(leaves(BASE)))
def test_every_setting_changes_something(
    name: str,
    unchanged: Callable[[Seen], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = SETTINGS[name]
    config = changed(given(BASE, seen.given), name, seen.value)
    assert seen.by(config, tmp_path) != unchanged(seen)


@pytest.mark.parametrize("name", list(leaves(SMALL_VLM)))
def test_every_setting_of_pretraining_changes_something(name: str, tmp_path: Path) -> None:
    config = replace(SMALL_VLM, **{name: PRETRAINING[name]})
    before = pretrained_vlm(SMALL_VLM, tmp_path / "before")
    assert before == pretrained_vlm(SMALL_VLM, tmp_path / "again")
    assert pretrained_vlm(config, tmp_path / "after") != before


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_other_steps(method: str, tmp_path: Path) -> None:
    others = [name for name in METHODS if name != method]
    made = steps(replace(BASE, method=method), tmp_path / method)
    for other in others:
        assert steps(replace(BASE, method=other), tmp_path / other) != made
