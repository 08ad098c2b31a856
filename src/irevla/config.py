"""Every setting of a run, with its meaning and unit. Read-only after parsing; imports nothing
heavy, so that `--help` is instant."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from irevla.errors import UserError, unknown

MOST_ROUNDS = 4  # seeds of later ones would not fit in 32 bits
TOWERS = ("language", "vision", "qformer")  # parts of a VLM that LoRA can adapt


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


@dataclass(frozen=True)
class EnvConfig:
    """How environments are drawn, stepped and shared out. Datasets record the first two and refuse
    to be mixed with others."""

    image_size: int = 64  # side of the square picture, pixels
    action_repeat: int = 2  # simulator control steps per decision of the policy
    horizon: int = 100  # decisions after which an episode is truncated
    rl_horizon: int = (
        0  # horizon in stage 1 and the harvest, where a failure takes robot time; 0: the same
    )
    workers: int = 2  # worker processes, one thread and one GL context each
    envs_per_worker: int = 4  # environments that share a worker
    timeout: float = 60.0  # seconds without an answer after which a worker is killed and replaced

    def __post_init__(self) -> None:
        _check(
            self.image_size >= 16,
            f"env.image_size is {self.image_size}; the smallest usable picture is 16 pixels",
        )
        for name in ("action_repeat", "horizon", "workers", "envs_per_worker", "timeout"):
            _check(
                getattr(self, name) > 0, f"env.{name} must be positive, not {getattr(self, name)}"
            )
        _check(
            self.rl_horizon >= 0, f"env.rl_horizon must not be negative, but is {self.rl_horizon}"
        )

    def practising(self) -> "EnvConfig":
        """The same for practice: with the horizon of stage 1 and the harvest."""
        return replace(self, horizon=min(self.horizon, self.rl_horizon or self.horizon))


@dataclass(frozen=True)
class ExpertConfig:
    """The expert dataset D_e, collected by scripted experts."""

    episodes: int = 50  # successful demonstrations per expert task (paper: 50)
    noisy_fraction: float = 0.5  # share of them executed with action noise; labels stay clean
    noise: float = 0.3  # standard deviation of that noise, in action units (actions are in [-1, 1])
    horizon: int = (
        0  # decisions that a demonstration may take, where disturbed ones need more; 0: env.horizon
    )
    burst: int = 0  # 0: fresh noise in every decision; else it comes in bursts of so many decisions, with pauses
    dataset: str = ""  # an existing LeRobotDataset v3 to use instead of collecting

    def __post_init__(self) -> None:
        _check(self.episodes > 0, f"expert.episodes must be positive, not {self.episodes}")
        _check(
            0 <= self.noisy_fraction <= 1,
            f"expert.noisy_fraction must be in [0, 1], not {self.noisy_fraction}",
        )
        for name in ("burst", "horizon"):
            _check(
                getattr(self, name) >= 0,
                f"expert.{name} must not be negative, but is {getattr(self, name)}",
            )
        _check(self.noise >= 0, f"expert.noise must not be negative, but is {self.noise}")


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adaptation of the VLM (section IV-A). Off at rank 0: the VLM trains in full."""

    rank: int = 0  # rank of the update; 0 trains the VLM in full
    alpha: float = 16.0  # scale of the update (alpha / rank)
    towers: tuple[str, ...] = (
        "language",
    )  # what it adapts: "language", "vision", "qformer" (a VLM of transformers)
    targets: str = ""  # instead of towers: a regular expression over the names of linear layers

    def __post_init__(self) -> None:
        _check(self.rank >= 0, f"lora.rank must not be negative, but is {self.rank}")
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


@dataclass(frozen=True)
class ModelConfig:
    """The VLA: VLM, token learner, MLP (section IV-A)."""

    vlm: str = "tiny"  # a small VLM of ours (tiny, tiny-random), OWNER/NAME on the Hub, or a folder of transformers
    width: int = (
        128  # d of the small VLM; one of transformers has its own, whatever a preset says here
    )
    layers: int = 2  # transformer layers of the small VLM's language tower; likewise
    head_groups: int = (
        8  # channel groups of the token learner, each with its own attention over the m tokens
    )
    head_hidden: int = 256  # width of the MLP of the action and critic heads
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    # The rest is for a VLM of transformers alone.
    revision: str = (
        ""  # commit, tag or branch on the Hub; empty: main. A saved policy records the commit
    )
    dtype: str = "auto"  # of its weights: "float32", "bfloat16" (with LoRA); "auto" is the latter on CUDA with LoRA
    quantize: str = ""  # "4bit": its own weights in 4 bits (NF4), for small cards; needs CUDA, bitsandbytes and LoRA
    gradient_checkpointing: bool = (
        False  # compute activations again in the backward pass: less memory, more time
    )
    compile: bool = False  # torch.compile: minutes at the first pictures, faster afterwards

    def __post_init__(self) -> None:
        for name, known in {
            "dtype": ("auto", "bfloat16", "float32"),
            "quantize": ("", "4bit"),
        }.items():
            _check(
                getattr(self, name) in known,
                f"model.{name} must be one of {known}, not {getattr(self, name)!r}",
            )
        if self.pretrained:
            lora = self.lora.rank > 0
            _check(
                lora or not self.quantize,
                "weights in 4 bits cannot be trained: set model.lora.rank",
            )
            _check(
                lora or self.dtype != "bfloat16",
                "small training steps are lost in bfloat16 weights: set model.lora.rank, or leave model.dtype out",
            )
        else:
            self._check_small()

    @property
    def pretrained(self) -> bool:
        """Whether `vlm` is a VLM that transformers loads: OWNER/NAME on the Hub, or a folder."""
        return "/" in self.vlm or (self.vlm != "" and Path(self.vlm).is_dir())

    def _check_small(self) -> None:
        _check(
            self.width % self.head_groups == 0,
            f"model.width {self.width} must be a multiple of model.head_groups {self.head_groups}",
        )
        for name in ("revision", "dtype", "quantize", "gradient_checkpointing", "compile"):
            _check(
                getattr(self, name) == getattr(ModelConfig, name),
                _only_pretrained(f"model.{name}", self.vlm),
            )
        _check(
            self.lora.towers == LoRAConfig.towers, _only_pretrained("model.lora.towers", self.vlm)
        )


def _only_pretrained(name: str, vlm: str) -> str:
    return f"{name} is for OWNER/NAME on the Hub or a model's folder, and model.vlm {vlm!r} is neither: leave it out"


@dataclass(frozen=True)
class SFTConfig:
    """Supervised learning by mean squared error (equations 2 and 4), AdamW, cosine schedule after a
    linear warm-up."""

    steps: int = 3000  # gradient steps
    batch: int = 128  # samples per step
    lr: float = 1e-3  # peak learning rate
    warmup: int = 100  # steps of linear warm-up
    weight_decay: float = 1e-4
    grad_clip: float = (
        1.0  # largest gradient norm; steps with a non-finite gradient are skipped and counted
    )
    shift: int = 3  # random shift, +- pixels
    colour: float = 0.35  # strength of the random 3x3 colour mix, I + colour * N(0, 1); 0 is off
    colour_named: float = 0.1  # its largest strength where the instruction names a colour
    colour_share: float = 0.8  # share of the samples whose colours are mixed
    words: float = 0.0  # share of the samples in whose instruction a word, no colour, becomes one that no task has
    validation: float = 0.05  # share of the episodes held out of training
    validate_every: int = (
        500  # steps between validations; the best checkpoint by validation loss is kept
    )
    online_share: float = 0.25  # stage 2: share of every batch drawn from D_RL; the rest from D_e
    discount: float = (
        1.0  # stage 2: frames of D_RL are drawn in proportion to discount^(decisions until success)
    )

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "lr", "grad_clip", "validate_every"):
            _check(
                getattr(self, name) > 0, f"sft {name} must be positive, not {getattr(self, name)}"
            )
        for name in ("colour_share", "words", "validation", "online_share", "discount"):
            _check(
                0 <= getattr(self, name) <= 1,
                f"sft {name} must be in [0, 1], not {getattr(self, name)}",
            )
        for name in ("shift", "colour", "colour_named"):
            _check(
                getattr(self, name) >= 0,
                f"sft {name} must not be negative, but is {getattr(self, name)}",
            )
        _check(
            self.validation < 1,
            "sft validation must leave something to train on: choose less than 1",
        )


@dataclass(frozen=True)
class PPOConfig:
    """Stage 1: proximal policy optimisation with a clipped objective, on latents (equation 3)."""

    steps: int = 50_000  # budget: decisions of the policy in the environment
    rollout: int = 128  # decisions per environment between updates
    epochs: int = 4  # passes over each rollout
    minibatch: int = 256  # samples per gradient step
    std: float = 0.2  # exploration: standard deviation of the Gaussian around the head's output, at the start of each task
    lr: float = 5e-4  # of the actor
    critic_lr: float = 1e-3
    gamma: float = 0.98  # discount per decision
    lam: float = 0.95  # lambda of generalised advantage estimation
    clip: float = 0.2  # epsilon of the clipped objective
    target_kl: float = 0.05  # an epoch that ends above this KL estimate is the update's last
    grad_clip: float = 0.5  # largest gradient norm
    warmup: int = 3  # updates of the critic alone before the actor moves
    converged: float = (
        0.95  # stop when this share of the last `window` training episodes succeeded ...
    )
    window: int = 100  # ... episodes
    checkpoint_every: int = 5  # updates between checkpoints

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "rollout",
            "epochs",
            "minibatch",
            "lr",
            "critic_lr",
            "clip",
            "target_kl",
            "grad_clip",
            "window",
        ):
            _check(
                getattr(self, name) > 0, f"ppo.{name} must be positive, not {getattr(self, name)}"
            )
        for name in ("gamma", "lam"):
            _check(
                0 <= getattr(self, name) <= 1,
                f"ppo.{name} must be in [0, 1], not {getattr(self, name)}",
            )
        _check(
            self.converged > 0,
            "ppo.converged must be positive; above 1 it never stops before the budget",
        )


@dataclass(frozen=True)
class SACConfig:
    """Stage 1 as on a real arm: soft actor-critic on latents, with demonstrations (section V-D)."""

    steps: int = 30_000  # budget: decisions of the policy in the environment
    demonstrations: int = (
        20  # successes of the policy as it is, collected first: half of what SAC learns from
    )
    attempts: int = 200  # episodes tried for them at most; then RL begins with fewer
    updates_per_decision: float = (
        0.5  # SAC learns after each episode, so many times for each of its decisions
    )
    apart: bool = False  # learn in a process of its own, while the next episodes run: a real arm must not wait
    rate: float = 0.0  # with `apart`: decisions per second at most, of all arms; 0: each arm keeps its own time
    gripper: bool = (
        True  # the last action dimension opens (-1) or closes (1); off: all dimensions are motion
    )
    batch: int = 256  # transitions per gradient step, half of them demonstrated
    utd: int = 4  # gradient steps of the critics per update, which moves the actor once
    std: float = 0.2  # exploration: standard deviation of the motion, before squashing, at the start of each task
    lr: float = 3e-4  # of the actor and of the temperatures
    critic_lr: float = 3e-4
    gamma: float = 0.98  # discount per decision
    tau: float = 0.005  # share of the critics that their slow copy takes over in each step
    critics: int = 10  # size of the ensemble
    subset: int = 2  # critics, drawn anew for each step, whose minimum is the target
    alpha: float = (
        0.01  # temperatures at the start: what one nat of entropy is worth, in units of reward
    )
    entropy: float = (
        -1.0
    )  # wanted entropy of the motion, nats per dimension: -1 is a deviation of about 0.1
    gripper_entropy: float = 0.1  # wanted entropy of the gripper, as a share of its largest, log 2
    backup_entropy: bool = (
        False  # count entropy as reward in the targets too; off: values are of the task alone
    )
    anchor: float = 0.1  # weight of the squared distance of the mean action to the SFT policy's; 0 lets the actor go
    grad_clip: float = (
        1.0  # largest gradient norm; steps with a non-finite gradient are skipped and counted
    )
    warmup: int = 100  # updates of the critics alone before the actor moves
    converged: float = (
        0.95  # stop when this share of the last `window` training episodes succeeded ...
    )
    window: int = 100  # ... episodes
    checkpoint_every: int = 500  # updates between checkpoints

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "demonstrations",
            "updates_per_decision",
            "batch",
            "utd",
            "lr",
            "critic_lr",
            "tau",
            "critics",
            "subset",
            "alpha",
            "grad_clip",
            "window",
            "checkpoint_every",
        ):
            _check(
                getattr(self, name) > 0, f"sac.{name} must be positive, not {getattr(self, name)}"
            )
        for name in ("gamma", "tau", "gripper_entropy"):
            _check(
                0 <= getattr(self, name) <= 1,
                f"sac.{name} must be in [0, 1], not {getattr(self, name)}",
            )
        for name in ("anchor", "warmup"):
            _check(
                getattr(self, name) >= 0,
                f"sac.{name} must not be negative, but is {getattr(self, name)}",
            )
        _check(0.01 <= self.std <= 2, f"sac.std must be in [0.01, 2], not {self.std}")
        _check(
            self.batch % 2 == 0,
            f"sac.batch is shared between two buffers: {self.batch} must be even",
        )
        _check(
            self.demonstrations <= self.attempts,
            f"sac.attempts {self.attempts} cannot give {self.demonstrations} sac.demonstrations",
        )
        _check(self.rate >= 0, f"sac.rate must not be negative, but is {self.rate}")
        _check(self.apart or self.rate == 0, "sac.rate is for sac.apart: set both, or leave it out")
        _check(
            self.converged > 0,
            "sac.converged must be positive; above 1 it never stops before the budget",
        )
        _check(
            self.subset <= self.critics,
            f"sac.subset {self.subset} is drawn from only {self.critics} sac.critics",
        )


@dataclass(frozen=True)
class HarvestConfig:
    """Successful trajectories of the converged policy, for the online dataset D_RL."""

    episodes: int = 50  # successes wanted per RL task
    attempts: int = 150  # episodes tried at most
    noise: float = 0.0  # standard deviation of noise on what is executed, as `expert.noise`; labels stay the policy's
    burst: int = 0  # as `expert.burst`
    practice: bool = False  # keep what succeeded zero-shot and while SAC was learning too; labels are what was done

    def __post_init__(self) -> None:
        _check(0 < self.episodes <= self.attempts, "harvest needs 0 < episodes <= attempts")
        for name in ("noise", "burst"):
            _check(
                getattr(self, name) >= 0,
                f"harvest.{name} must not be negative, but is {getattr(self, name)}",
            )


@dataclass(frozen=True)
class EvalConfig:
    """Success rates on fixed seeds that training never uses."""

    episodes: int = 50  # per task, before and after the whole algorithm
    interim: int = 20  # per task, after each stage between (for the forgetting matrix); 0 skips it
    seed: int = 0  # which block of evaluation seeds
    videos: bool = True  # record one episode of every task with the final policy

    def __post_init__(self) -> None:
        _check(self.episodes > 0, f"eval.episodes must be positive, not {self.episodes}")
        _check(
            self.interim >= 0 and self.seed >= 0, "eval.interim and eval.seed must not be negative"
        )


@dataclass(frozen=True)
class Method:
    """A row of the paper's table I or figure 5, as data: which parameters each stage trains."""

    sft: bool  # stage 0 on D_e
    rl: Literal["head", "all", "none"]  # what stage 1 trains
    sl: Literal["head", "all", "none"]  # what stage 2 trains


METHODS = {
    "irevla": Method(sft=True, rl="head", sl="all"),
    "irevla-freeze": Method(sft=True, rl="head", sl="head"),
    "ppo-replay": Method(sft=True, rl="all", sl="all"),
    "sft": Method(sft=True, rl="none", sl="none"),
    "scratch": Method(sft=False, rl="all", sl="none"),
}


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
    rounds: int = 1  # times that the RL tasks are gone through: each again from what stage 2 made of all of them
    rl: str = "ppo"  # how stage 1 learns: "ppo" or "sac" (section V-D)
    from_checkpoint: str = (
        ""  # start from this policy (a run, a checkpoint or a saved policy) instead of stage 0
    )
    seed: int = 0
    device: str = "auto"  # "auto": cuda when present, else cpu
    threads: int = 0  # threads of supervised learning on the CPU; 0: one per core
    env: EnvConfig = field(default_factory=EnvConfig)
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)  # stage 0
    ppo: PPOConfig = field(default_factory=PPOConfig)  # stage 1 where `rl` is "ppo"
    sac: SACConfig = field(default_factory=SACConfig)  # stage 1 where `rl` is "sac"
    harvest: HarvestConfig = field(default_factory=HarvestConfig)
    sl: SFTConfig = field(default_factory=lambda: SFTConfig(steps=800, lr=5e-4))  # stage 2
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if self.rl not in LEARNERS:
            raise unknown("rl", self.rl, LEARNERS)
        _check(
            self.rl == "ppo" or METHODS[self.method].rl != "all",
            f"sac learns from latents that a frozen VLM made once, but method {self.method} trains the VLM in stage 1: "
            "choose --rl ppo, or method irevla",
        )
        _check(
            self.rl == "sac" or not self.harvest.practice,
            "harvest.practice keeps what SAC did: --rl sac, or --harvest.no-practice",
        )
        _check(0 <= self.seed < 1000, f"seed must be in 0..999, not {self.seed}")
        _check(
            1 <= self.rounds <= MOST_ROUNDS,
            f"rounds must be in 1..{MOST_ROUNDS}, not {self.rounds}",
        )
        held_out = set(self.unseen_tasks) & (set(self.expert_tasks) | set(self.rl_tasks))
        _check(
            not held_out,
            f"unseen tasks must not be trained on, but {sorted(held_out)} is; take it out of one list",
        )


@dataclass(frozen=True)
class PretrainConfig:
    """The small VLM's own pretraining: pictures of procedural scenes, questions about them,
    cross-entropy."""

    seed: int = 0
    width: int = 128  # d of the model
    layers: int = 2  # transformer layers of its language tower
    image_size: int = 64  # side of the square picture, pixels
    pictures: int = 100_000  # of the corpus, in shards of 512
    exam: int = 2_048  # held-out pictures, of other scenes, whose questions are the exam
    workers: int = 2  # processes that draw the corpus
    steps: int = 28_000  # gradient steps
    batch: int = 64  # questions per step, each with its picture
    lr: float = 1e-3  # peak learning rate: linear warm-up, then half a cosine
    warmup: int = 500  # steps
    weight_decay: float = 1e-4
    grad_clip: float = 1.0  # largest gradient norm
    validate_every: int = 4_000  # steps between checkpoints and looks at the exam
    device: str = "auto"  # "auto": cuda when present, else cpu
    threads: int = 0  # on the CPU; 0: one per core

    def __post_init__(self) -> None:
        _check(0 <= self.seed < 1000, f"seed must be in 0..999, not {self.seed}")
        _check(
            self.image_size >= 16,
            f"image-size is {self.image_size}; the smallest usable picture is 16 pixels",
        )
        for name in (
            "layers",
            "pictures",
            "exam",
            "workers",
            "steps",
            "batch",
            "lr",
            "grad_clip",
            "validate_every",
        ):
            _check(getattr(self, name) > 0, f"{name} must be positive, not {getattr(self, name)}")
        for name in ("warmup", "weight_decay", "threads"):
            _check(
                getattr(self, name) >= 0,
                f"{name} must not be negative, but is {getattr(self, name)}",
            )
        _check(
            self.width > 0 and self.width % 4 == 0,
            f"width {self.width} must be a multiple of 4, the attention heads",
        )
