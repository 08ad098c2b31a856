"""Every setting of a run, with its meaning and unit.

Read-only after parsing; imports nothing heavy, so that `--help` is instant. The command line takes
its help from the comments behind the fields.
"""

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from irevla.errors import UserError, unknown
from irevla.tasks import SHARE, Parts

MOST_ROUNDS = 4  # seeds of later ones would not fit in 32 bits
MOST_GRIPPER_STEPS = 8  # of a chunk: SAC has a value for each of 2^n ways to open and close
SMALLEST_IMAGE = 16  # pixels
TOWERS = ("language", "vision", "qformer")  # parts of a VLM that LoRA can adapt


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


NAMED = ("abfs", "abfss", "sftp", "ssh")
"""Kinds of URIs in which what is before an @ is a name: of a container, or of a user."""


def _has_secret(uri: str) -> bool:
    """Return whether a URI may hold a password or a token."""
    kind, _, rest = uri.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    return "?" in rest or (bool(at) and (":" in user or kind not in NAMED))


def is_folder(name: str | Path) -> bool:
    """Return whether there is a folder of that name: not of one that no file can have, either."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


def _positive(config: Any, group: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _check(value > 0, f"{group}{name} must be positive, not {value}")
        _check(math.isfinite(value), f"{group}{name} must be a finite number, not {value}")


def _not_negative(config: Any, group: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _check(value >= 0, f"{group}{name} must not be negative, but is {value}")
        _check(math.isfinite(value), f"{group}{name} must be a finite number, not {value}")


def _at_most(config: Any, group: str, **largest: int) -> None:
    """Files of others are parsed into configs: nothing in one may take all memory."""
    for name, most in largest.items():
        value = getattr(config, name)
        _check(value <= most, f"{group}{name} must be at most {most}, not {value}")


def _shares(config: Any, group: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _check(0 <= value <= 1, f"{group}{name} must be in [0, 1], not {value}")


def _each_once(config: Any, *names: str) -> None:
    for name in names:
        listed = getattr(config, name)
        twice = [each for each in dict.fromkeys(listed) if listed.count(each) > 1]
        _check(not twice, f"{name} must name each task once, but has {', '.join(twice)} twice")


def _convergence(config: Any, group: str) -> None:
    _check(
        0 < config.converged < math.inf,
        f"{group}converged must be positive; above 1 it never stops before the budget",
    )


def _usable(size: int, name: str) -> None:
    _check(
        size >= SMALLEST_IMAGE,
        f"{name} is {size}; the smallest usable image is {SMALLEST_IMAGE} pixels",
    )


EVALUATED_TOGETHER = 16  # environments of a worker; with 24 hardly more decisions a second


@dataclass(frozen=True)
class EnvConfig:
    """How environments are made and shared out. Datasets record the first four settings."""

    image_size: int = 64  # side of the square image, pixels
    action_repeat: int = 2  # simulator control steps per decision of the policy
    cameras: tuple[str, ...] = ()  # that the policy sees, of those a suite has; empty: its own one
    state: bool = False  # whether the policy is told the robot's state beside the image
    horizon: int = 100  # decisions after which an episode is truncated
    rl_horizon: int = 0  # the same in stage 1 and the harvest (robot time is dear); 0: horizon
    workers: int = 2  # worker processes, one thread and one GL context each
    envs_per_worker: int = 4  # environments that share a worker
    timeout: float = 60.0  # seconds without an answer after which a worker is replaced
    lost_share: float = 0.02  # of all episodes: may fail for good, each after several attempts

    def __post_init__(self) -> None:
        _usable(self.image_size, "env.image_size")
        _check(0 <= self.lost_share < 1, f"env.lost_share must be in [0, 1), not {self.lost_share}")
        _at_most(self, "env.", image_size=4096, workers=1024, envs_per_worker=1024)
        _positive(self, "env.", "action_repeat", "horizon", "workers", "envs_per_worker", "timeout")
        _not_negative(self, "env.", "rl_horizon")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of what the policy sees: squares of all cameras, one below the other."""
        return (max(1, len(self.cameras)) * self.image_size, self.image_size, 3)

    def for_training(self) -> "EnvConfig":
        """Return the same with the horizon of stage 1 and the harvest."""
        return replace(self, horizon=min(self.horizon, self.rl_horizon or self.horizon))

    def for_evaluation(self) -> "EnvConfig":
        """Return the same with more environments, whose images fill a batch: nothing learns from
        it. A worker has as much more time to answer."""
        together = max(self.envs_per_worker, EVALUATED_TOGETHER)
        timeout = self.timeout * together / self.envs_per_worker
        return replace(self, envs_per_worker=together, timeout=timeout)


@dataclass(frozen=True)
class ExpertConfig:
    """The expert dataset D_e, collected by scripted experts."""

    episodes: int = 50  # successful demonstrations per expert task (paper: 50)
    noisy_fraction: float = 0.5  # share of them executed with action noise; labels stay clean
    noise: float = 0.3  # standard deviation of that noise; actions are in [-1, 1]
    horizon: int = 0  # decisions that a demonstration may take; 0: env.horizon
    burst: int = 0  # decisions that noise comes in at once, with pauses; 0: in every decision
    dataset: str = ""  # a LeRobotDataset (v3, v2.1, v2.0), anybody's, to use instead of collecting
    camera: str = ""  # of a dataset of others: the one that the policy sees; empty: the only one
    stride: int = 1  # of a dataset of others: a decision is one frame in so many

    def __post_init__(self) -> None:
        _positive(self, "expert.", "episodes")
        _at_most(self, "expert.", episodes=SHARE // 20)  # each is tried with so many seeds
        _shares(self, "expert.", "noisy_fraction")
        _not_negative(self, "expert.", "burst", "horizon", "noise")
        _positive(self, "expert.", "stride")
        unset = self.camera == ExpertConfig.camera and self.stride == ExpertConfig.stride
        _check(
            unset or bool(self.dataset),
            "expert.camera and expert.stride are of a dataset: name it as expert.dataset, or leave "
            "them out",
        )


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adaptation of the VLM (section IV-A). Off at rank 0: the VLM trains in full."""

    rank: int = 0  # rank of the update; 0 trains the VLM in full
    alpha: float = 16.0  # scale of the update (alpha / rank)
    towers: tuple[str, ...] = ("language",)  # of a VLM of transformers: language, vision, qformer
    targets: str = ""  # instead of towers: a regular expression over the names of linear layers

    def __post_init__(self) -> None:
        _not_negative(self, "lora.", "rank")
        _check(
            self.rank > 0 or not self.targets,
            "lora.targets is set but lora.rank is 0: set a rank or drop the targets",
        )
        _check(bool(self.towers), f"lora.towers is empty: name some of {', '.join(TOWERS)}")
        for tower in self.towers:
            if tower not in TOWERS:
                raise unknown("tower in lora.towers", tower, TOWERS)
        chosen = self.towers != LoRAConfig.towers
        _check(
            self.rank > 0 or not chosen,
            "lora.towers is set but lora.rank is 0: set a rank or drop the towers",
        )
        _check(
            not (chosen and self.targets),
            "lora.targets takes the place of lora.towers: set one of them",
        )
        try:
            re.compile(self.targets)
        except re.error as error:
            raise UserError(
                f"lora.targets {self.targets!r} is not a regular expression: {error}"
            ) from error


ACTION_SCALES = ("suite", "min-max", "quantiles", "mean-std")
DTYPES = ("auto", "bfloat16", "float32")
QUANTIZED = ("", "4bit")


@dataclass(frozen=True)
class ModelConfig:
    """The VLA: VLM, token learner, MLP (section IV-A). What follows `lora` is for transformers'."""

    vlm: str = "tiny"  # tiny, tiny-random, OWNER/NAME on the Hub, or a folder of transformers
    width: int = 128  # d of the small VLM; one of transformers has its own
    layers: int = 2  # transformer layers of the small VLM's language tower; likewise
    head_groups: int = 8  # channel groups of the token learner, each with an attention of its own
    head_hidden: int = 256  # width of the MLP of the action and critic heads
    chunk: int = 1  # k: actions that the head gives at once, for this moment and those after it
    execute: int = 1  # n: of these executed, one a step, before the policy looks again
    action_scale: str = "suite"  # what the head's -1 and 1 are: the suite's own; or, of the actions
    # in D_e, min-max, quantiles (the 1st and 99th percentile) or mean-std (three deviations)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    revision: str = ""  # commit, tag or branch on the Hub; empty: main
    dtype: str = "auto"  # float32, bfloat16 (with LoRA); auto: the latter where it is faster
    quantize: str = ""  # 4bit: its own weights in NF4; needs CUDA, bitsandbytes and LoRA
    gradient_checkpointing: bool = False  # compute activations twice: less memory, more time
    compile: bool = False  # torch.compile of each layer: a minute at the first images, then faster

    def __post_init__(self) -> None:
        _positive(self, "model.", "width", "layers", "head_groups", "head_hidden")
        _positive(self, "model.", "chunk", "execute")
        _at_most(self, "model.", width=65_536, layers=1024, head_hidden=65_536, chunk=1024)
        _check(
            self.execute <= self.chunk,
            f"model.execute {self.execute} is more than the head gives at once: at most "
            f"model.chunk, {self.chunk}",
        )
        for name, known in {"dtype": DTYPES, "quantize": QUANTIZED}.items():
            value = getattr(self, name)
            _check(value in known, f"model.{name} must be one of {known}, not {value!r}")
        if self.action_scale not in ACTION_SCALES:
            raise unknown("model.action_scale", self.action_scale, ACTION_SCALES)
        if not self.pretrained:
            self._check_small()
        elif self.lora.rank == 0:
            _check(not self.quantize, "weights in 4 bits cannot be trained: set model.lora.rank")
            _check(
                self.dtype != "bfloat16",
                "small training steps are lost in bfloat16 weights: set model.lora.rank, or leave "
                "model.dtype out",
            )

    @property
    def pretrained(self) -> bool:
        """Whether `vlm` is a VLM that transformers loads: OWNER/NAME on the Hub, or a folder."""
        return "/" in self.vlm or (self.vlm != "" and is_folder(self.vlm))

    def _check_small(self) -> None:
        _check(
            self.width % self.head_groups == 0,
            f"model.width {self.width} must be a multiple of model.head_groups {self.head_groups}",
        )
        _check(
            self.dtype != "bfloat16",
            f"the weights of {self.vlm!r} are float32: choose model.dtype auto or float32",
        )
        for name in ("revision", "quantize", "gradient_checkpointing", "compile"):
            unset = getattr(self, name) == getattr(ModelConfig, name)
            _check(unset, _only_pretrained(f"model.{name}", self.vlm))
        unset = self.lora.towers == LoRAConfig.towers
        _check(unset, _only_pretrained("model.lora.towers", self.vlm))


def _only_pretrained(name: str, vlm: str) -> str:
    return (
        f"{name} is for OWNER/NAME on the Hub or a model's folder, and model.vlm {vlm!r} is "
        "neither: leave it out"
    )


@dataclass(frozen=True)
class AugmentConfig:
    """What is changed in samples of the supervised stages. RL's latents are of the true image."""

    shift: int = 3  # random shift, +- pixels
    colour: float = 0.35  # strength of the random 3x3 colour mix, I + colour * N(0, 1); 0 is off
    colour_named: float = 0.1  # its largest strength where the instruction names a colour
    colour_share: float = 0.8  # share of the samples whose colours are mixed
    words: float = 0.0  # share of the instructions in which a word, no colour, becomes another

    def __post_init__(self) -> None:
        _shares(self, "augment.", "colour_share", "words")
        _not_negative(self, "augment.", "shift", "colour", "colour_named")


@dataclass(frozen=True)
class SFTConfig:
    """Supervised learning by mean squared error (equations 2 and 4), AdamW, cosine schedule."""

    steps: int = 3000  # gradient steps
    batch: int = 128  # samples per step
    lr: float = 1e-3  # peak learning rate
    warmup: int = 100  # steps of linear warm-up, before half a cosine down to 0
    weight_decay: float = 1e-4
    grad_clip: float = 1.0  # largest gradient norm; a non-finite gradient is skipped and counted
    validate_every: int = 500  # steps between validations, and between checkpoints
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        _positive(self, "sft ", "steps", "batch", "lr", "grad_clip", "validate_every")
        _not_negative(self, "sft ", "warmup", "weight_decay")


@dataclass(frozen=True)
class MixtureConfig:
    """How the batches of the supervised stages are drawn from D_e and D_RL."""

    validation: float = 0.05  # share of the episodes held out of both stages
    online_share: float = 0.25  # stage 2: share of every batch from D_RL; the rest is from D_e
    discount: float = 1.0  # D_RL: a frame is drawn as discount^(decisions until success)
    trained: float = 1.0  # stage 2: how often a task of D_e is drawn that D_RL has, to 1 of another

    def __post_init__(self) -> None:
        _shares(self, "mixture.", "validation", "online_share", "discount", "trained")
        _check(
            self.validation < 1, "mixture.validation must leave something to train on: less than 1"
        )


@dataclass(frozen=True)
class PPOConfig:
    """Stage 1: proximal policy optimisation with a clipped objective, on latents (equation 3)."""

    steps: int = 50_000  # budget: decisions of the policy in the environment
    rollout: int = 128  # decisions per environment between updates
    epochs: int = 4  # passes over each rollout
    minibatch: int = 256  # samples per gradient step
    std: float = 0.2  # standard deviation of the exploration noise as each task begins
    lr: float = 5e-4  # of the actor
    critic_lr: float = 1e-3
    gamma: float = 0.98  # discount per decision
    lam: float = 0.95  # lambda of generalised advantage estimation
    clip: float = 0.2  # epsilon of the clipped objective
    target_kl: float = 0.05  # an epoch that ends above this KL estimate is the update's last
    grad_clip: float = 0.5  # largest gradient norm
    warmup: int = 3  # updates of the critic alone before the actor moves
    converged: float = 0.95  # stop when this share of the last training episodes succeeded ...
    window: int = 100  # ... of so many
    hopeless: int = 200  # stop when none of so many training episodes has ever succeeded
    checkpoint_every: int = 5  # updates between checkpoints

    def __post_init__(self) -> None:
        _positive(self, "ppo.", "steps", "rollout", "epochs", "minibatch", "std", "lr")
        _positive(self, "ppo.", "critic_lr", "clip", "target_kl", "grad_clip", "window")
        _positive(self, "ppo.", "hopeless", "checkpoint_every")
        _not_negative(self, "ppo.", "warmup")
        _shares(self, "ppo.", "gamma", "lam")
        _convergence(self, "ppo.")


@dataclass(frozen=True)
class SACConfig:
    """Stage 1 as on a real arm: soft actor-critic on latents, with demonstrations (section V-D)."""

    steps: int = 30_000  # budget: decisions of the policy in the environment
    demonstrations: int = 20  # successes of the policy as it is: half of what SAC learns from
    attempts: int = 200  # episodes tried for them at most; then RL begins with fewer
    other_words: bool = (
        False  # try instructions of other tasks for them too, which the policy knows
    )
    keep_failures: bool = False  # those of them that failed begin the online buffer
    updates_per_decision: float = 0.125  # made from each episode, while the next are played
    async_learner: bool = False  # learn in a process of its own: a real arm must not wait
    gripper: bool = True  # the last action dimension opens (-1) or closes (1); off: all is motion
    batch: int = 128  # decisions per gradient step, half of them demonstrated
    utd: int = 4  # gradient steps of the critics per update, which moves the actor once
    std: float = 0.2  # standard deviation of the motion's noise, which is pink along an episode
    lr: float = 3e-4  # of the actor and of the gripper's temperature
    critic_lr: float = 3e-4
    gamma: float = 0.98  # discount per decision
    critics: int = 2  # size of the ensemble
    alpha: float = 2e-4  # first temperature: what one nat of the gripper's entropy is worth
    gripper_entropy: float = 0.1  # wanted of the gripper, as a share of its largest, log 2
    anchor: float = 0.1  # weight of the squared distance to the SFT policy's mean; 0: none
    grad_clip: float = 1.0  # largest gradient norm; a non-finite gradient is skipped and counted
    warmup: int = 100  # updates of the critics alone before the actor moves
    converged: float = 0.95  # stop when this share of the last training episodes succeeded ...
    window: int = 100  # ... of so many
    hopeless: int = 200  # stop when none of so many training episodes has ever succeeded
    checkpoint_every: int = 50  # episodes between checkpoints

    def __post_init__(self) -> None:
        _positive(self, "sac.", "steps", "demonstrations", "updates_per_decision", "batch", "utd")
        _at_most(self, "sac.", attempts=SHARE)
        _positive(self, "sac.", "lr", "critic_lr", "critics", "alpha")
        _positive(self, "sac.", "grad_clip", "window", "hopeless", "checkpoint_every")
        _not_negative(self, "sac.", "anchor", "warmup")
        _shares(self, "sac.", "gamma", "gripper_entropy")
        _convergence(self, "sac.")
        _check(0.01 <= self.std <= 2, f"sac.std must be in [0.01, 2], not {self.std}")
        _check(
            self.batch % 2 == 0,
            f"sac.batch is shared between two buffers: {self.batch} must be even",
        )
        _check(
            self.demonstrations <= self.attempts,
            f"sac.attempts {self.attempts} cannot give {self.demonstrations} sac.demonstrations",
        )


@dataclass(frozen=True)
class HarvestConfig:
    """Successful trajectories of the converged policy, for the online dataset D_RL."""

    episodes: int = 50  # successes wanted per RL task
    attempts: int = 150  # episodes tried at most
    noise: float = 0.0  # standard deviation of noise on what is executed; labels stay clean
    burst: int = 0  # as `expert.burst`
    from_training: bool = False  # keep SAC's successes in stage 1 too, as they were done

    def __post_init__(self) -> None:
        _check(0 < self.episodes <= self.attempts, "harvest needs 0 < episodes <= attempts")
        _at_most(self, "harvest.", attempts=SHARE)
        _not_negative(self, "harvest.", "noise", "burst")


@dataclass(frozen=True)
class EvalConfig:
    """Success rates on fixed seeds that training never uses."""

    episodes: int = 50  # per task, before and after the whole algorithm
    interim: int = 20  # per task, after each stage between, for the forgetting matrix; 0: none
    seed: int = 0  # which block of evaluation seeds
    videos: bool = True  # record one episode of every task with the final policy

    def __post_init__(self) -> None:
        _positive(self, "eval.", "episodes")
        _not_negative(self, "eval.", "interim", "seed")
        _at_most(self, "eval.", episodes=SHARE, interim=SHARE, seed=999)


ENGINES = ("inline", "torchrun", "ray")
"""Who starts the processes of a supervised stage: nobody, this machine, or a cluster."""


@dataclass(frozen=True)
class ComputeConfig:
    """Where stages learn: in this process, in several, or on a cluster. Acting stays here.

    A run may go on with other ones.
    """

    stage0: str = "inline"  # inline (this process), torchrun (several of this machine), or ray
    stage1: str = "inline"  # SAC's learner: inline (as sac.async_learner says), torchrun or ray
    stage2: str = "inline"  # the same: inline, torchrun or ray (a cluster, see docs/scale-out.md)
    processes: int = 1  # of stages 0 and 2 elsewhere; each batch is shared out among them
    pipeline: bool = False  # stage 2 of a task while stage 1 explores the next (docs/scale-out.md)
    shard: bool = False  # keep a part of a large VLM's frozen weights on each process (FSDP2)
    share: str = ""  # folder or fsspec URI that all machines see; empty: in ~/.cache/irevla
    ray_address: str = "auto"  # of the cluster; auto: the one that this machine is a node of
    ray_resource: str = ""  # custom resource of the nodes that train, one a process; empty: any

    @property
    def engines(self) -> set[str]:
        """Those in use."""
        return {self.stage0, self.stage1, self.stage2}

    def __post_init__(self) -> None:
        for engine in (self.stage0, self.stage1, self.stage2):
            if engine not in ENGINES:
                raise unknown("engine", engine, ENGINES)
        _positive(self, "compute.", "processes")
        _at_most(self, "compute.", processes=4096)
        _check(
            not any(_has_secret(part) for part in self.share.split("::")),
            "compute.share must have no user, password or query: let what opens it be in the "
            "environment",
        )
        _check(
            not self.pipeline or self.stage2 != "inline",
            "compute.pipeline lets others compute stage 2 while stage 1 goes on here: choose "
            "torchrun or ray as compute.stage2, or leave it out",
        )
        own = ComputeConfig.processes, ComputeConfig.shard
        _check(
            {self.stage0, self.stage2} != {"inline"} or (self.processes, self.shard) == own,
            "compute.processes and compute.shard are for stages 0 and 2 on torchrun or ray: choose "
            "one as compute.stage0 or stage2, or leave them out",
        )
        _check(
            self.engines != {"inline"} or self.share == ComputeConfig.share,
            "compute.share is for torchrun and ray: choose one as compute.stage0, stage1 or "
            "stage2, or leave it out",
        )
        own_ray = ComputeConfig.ray_address, ComputeConfig.ray_resource
        _check(
            "ray" in self.engines or (self.ray_address, self.ray_resource) == own_ray,
            "compute.ray_address and compute.ray_resource are for ray: choose it as "
            "compute.stage0, stage1 or stage2, or leave them out",
        )


BACKENDS = ("local", "ray")
"""Who plays: the workers of this machine, or actors on a cluster."""


@dataclass(frozen=True)
class RolloutsConfig:
    """Who plays PPO's stage 1, the harvest and the evaluations, and where the VLM is of those who
    play here. A run may go on with other ones.

    SAC's stage 1 is always played here: its learner takes each episode as it ends.
    """

    backend: str = "local"  # local (this process and its workers) or ray (see docs/scale-out.md)
    actors: int = 1  # of ray: processes with a VLM and `env.workers` workers of their own each
    encoder: str = "local"  # of what is played here: local, or ray (images travel to a server)
    device: str = "auto"  # of their VLMs; auto: a GPU each where the cluster has any, else the CPU
    ray_address: str = "auto"  # of the cluster; auto: the one that this machine is a node of
    ray_resource: str = ""  # custom resource of the nodes that play, one an actor; empty: any

    def __post_init__(self) -> None:
        for name in ("backend", "encoder"):
            if getattr(self, name) not in BACKENDS:
                raise unknown(f"rollouts.{name}", getattr(self, name), BACKENDS)
        _positive(self, "rollouts.", "actors")
        _at_most(self, "rollouts.", actors=4096)
        _check(
            "local" in (self.backend, self.encoder),
            "the actors of rollouts.backend ray have VLMs of their own: leave rollouts.encoder out",
        )
        _check(
            self.backend == "ray" or self.actors == RolloutsConfig.actors,
            "rollouts.actors is for ray: choose it as rollouts.backend, or leave it out",
        )
        default = RolloutsConfig.device, RolloutsConfig.ray_address, RolloutsConfig.ray_resource
        _check(
            self.uses_ray or (self.device, self.ray_address, self.ray_resource) == default,
            "rollouts.device, ray_address and ray_resource are for ray: choose it as "
            "rollouts.backend or rollouts.encoder, or leave them out",
        )

    @property
    def uses_ray(self) -> bool:
        """Whether any of it is on a cluster."""
        return "ray" in (self.backend, self.encoder)


@dataclass(frozen=True)
class Method:
    """A row of the paper's table I or figure 5, or a control, as data: what each stage trains."""

    rl: Parts  # what stage 1 trains
    sl: Parts  # what stage 2 trains
    harvest: bool = True  # whether stage 2 has D_RL, of line 6, beside D_e
    sft: bool = True  # stage 0 on D_e


METHODS = {
    "irevla": Method(rl="head", sl="all"),
    "irevla-freeze": Method(rl="head", sl="head"),
    "ppo-replay": Method(rl="all", sl="all", harvest=False),
    "ppo-full": Method(rl="all", sl="none"),
    "scratch": Method(rl="all", sl="none", sft=False),
    "sft": Method(rl="none", sl="none"),
    "self-imitation": Method(rl="none", sl="all"),
    "more-sft": Method(rl="none", sl="all", harvest=False),
    "stage1-only": Method(rl="head", sl="none"),
}
"""The paper's, and controls: in the place of stage 1 as much time for harvests (self-imitation) or
nothing (more-sft: stage 2 on D_e alone), and stage 1 without stage 2."""


LEARNERS = ("ppo", "sac")
"""How stage 1 can learn: by PPO, as in simulation, or by SAC, as on a real arm."""


@dataclass(frozen=True)
class Config:
    """One run of Algorithm 1."""

    suite: str = "metaworld"
    expert_tasks: tuple[str, ...] = ()  # empty: all of the suite's category
    rl_tasks: tuple[str, ...] = ()  # in the order in which they are learned; empty: all
    unseen_tasks: tuple[str, ...] = ()  # empty: all
    method: str = "irevla"
    rounds: int = 1  # times that the RL tasks are gone through, each from the last stage 2
    rl: str = "ppo"  # how stage 1 learns: "ppo" or "sac" (section V-D)
    from_checkpoint: str = ""  # a run, a checkpoint or a saved policy to begin with: no stage 0
    seed: int = 0
    device: str = "auto"  # "auto": cuda when present, else cpu
    threads: int = 2  # of supervised learning on the CPU; the weights depend on it
    env: EnvConfig = field(default_factory=EnvConfig)
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)  # stage 0
    ppo: PPOConfig = field(default_factory=PPOConfig)  # stage 1 where `rl` is "ppo"
    sac: SACConfig = field(default_factory=SACConfig)  # stage 1 where `rl` is "sac"
    harvest: HarvestConfig = field(default_factory=HarvestConfig)
    sl: SFTConfig = field(default_factory=lambda: SFTConfig(steps=800, lr=5e-4))  # stage 2
    mixture: MixtureConfig = field(default_factory=MixtureConfig)  # of both
    eval: EvalConfig = field(default_factory=EvalConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)  # who learns, where
    rollouts: RolloutsConfig = field(default_factory=RolloutsConfig)  # who plays

    @property
    def discrete_gripper(self) -> bool:
        """Whether policies open or close the gripper: in all stages, so that these compare."""
        return self.rl == "sac" and self.sac.gripper

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if self.rl not in LEARNERS:
            raise unknown("rl", self.rl, LEARNERS)
        _check(
            self.rl == "ppo" or METHODS[self.method].rl != "all",
            f"sac learns from latents that a frozen VLM made once, but method {self.method} trains "
            "the VLM in stage 1: choose --rl ppo, or method irevla",
        )
        steps = self.model.execute
        _check(
            not self.discrete_gripper or steps <= MOST_GRIPPER_STEPS,
            f"sac.gripper has a value for each of 2^{steps} ways to open and close in {steps} "
            f"steps: model.execute at most {MOST_GRIPPER_STEPS}, or --sac.no-gripper",
        )
        method = METHODS[self.method]
        _check(
            not self.compute.pipeline or (method.rl != "none" and method.sl != "none"),
            f"compute.pipeline overlaps stages 1 and 2, and method {self.method} has not both: "
            "leave it out",
        )
        _check(
            self.rollouts.backend == "local" or METHODS[self.method].rl != "all",
            f"to the actors of rollouts.backend ray go heads alone, but method {self.method} "
            "trains the VLM in stage 1: choose rollouts.backend local, or method irevla",
        )
        _check(
            self.rollouts.encoder == "local" or METHODS[self.method].rl != "all",
            f"the VLM of rollouts.encoder ray is frozen, but method {self.method} trains it in "
            "stage 1: choose rollouts.encoder local, or method irevla",
        )
        _check(
            self.rl == "sac" or not self.harvest.from_training,
            "harvest.from_training keeps what SAC did: --rl sac, or --harvest.no-from-training",
        )
        _check(
            self.rl == "sac" or self.compute.stage1 == "inline",
            "compute.stage1 is for SAC's learner, since PPO learns where it acts: --rl sac, or "
            "leave it out",
        )
        _check(
            METHODS[self.method].sft or not self.from_checkpoint,
            f"method {self.method} makes a new policy for each task: leave from_checkpoint out",
        )
        _positive(self, "", "threads")
        for engine, group in ((self.compute.stage0, self.sft), (self.compute.stage2, self.sl)):
            _check(
                engine == "inline" or self.compute.processes <= group.batch,
                f"{self.compute.processes} processes cannot share batches of {group.batch}: lower "
                "compute.processes",
            )
        _check(0 <= self.seed < 1000, f"seed must be in 0..999, not {self.seed}")
        _check(
            1 <= self.rounds <= MOST_ROUNDS,
            f"rounds must be in 1..{MOST_ROUNDS}, not {self.rounds}",
        )
        _each_once(self, "expert_tasks", "rl_tasks", "unseen_tasks")
        held_out = set(self.unseen_tasks) & (set(self.expert_tasks) | set(self.rl_tasks))
        _check(
            not held_out,
            f"unseen tasks must not be trained on, but {sorted(held_out)} is; take it out of one "
            "list",
        )


@dataclass(frozen=True)
class PretrainConfig:
    """The small VLM's own pretraining: questions about images of scenes, cross-entropy."""

    seed: int = 0
    width: int = 128  # d of the model
    layers: int = 2  # transformer layers of its language tower
    image_size: int = 64  # side of the square image, pixels
    pictures: int = 100_000  # images of the corpus, in shards of 512
    exam: int = 2_048  # held-out images, of other scenes, whose questions are the exam
    workers: int = 2  # processes that draw the corpus
    steps: int = 28_000  # gradient steps
    batch: int = 64  # questions per step, each with its image
    lr: float = 1e-3  # peak learning rate: linear warm-up, then half a cosine
    warmup: int = 500  # steps
    weight_decay: float = 1e-4
    grad_clip: float = 1.0  # largest gradient norm
    validate_every: int = 4_000  # steps between checkpoints and looks at the exam
    device: str = "auto"  # "auto": cuda when present, else cpu
    threads: int = 2  # on the CPU; the weights depend on it

    def __post_init__(self) -> None:
        _check(0 <= self.seed < 1000, f"seed must be in 0..999, not {self.seed}")
        _usable(self.image_size, "image-size")
        _positive(self, "", "layers", "pictures", "exam", "workers", "steps", "batch", "lr")
        _positive(self, "", "grad_clip", "validate_every", "threads")
        _not_negative(self, "", "warmup", "weight_decay")
        _check(
            self.width > 0 and self.width % 4 == 0,
            f"width {self.width} must be a multiple of 4, the attention heads",
        )
