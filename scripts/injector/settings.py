"""The runs that are attacked: Algorithm 1 on the toy suite, in seconds."""

from dataclasses import dataclass, replace
from pathlib import Path

from injector.lives import PRESET, changed, undisturbed
from irevla.config import (
    AugmentConfig,
    Config,
    EnvConfig,
    EvalConfig,
    ExpertConfig,
    HarvestConfig,
    ModelConfig,
    PPOConfig,
    SACConfig,
    SFTConfig,
)

TASK = "left-disc-new"
PLAIN = AugmentConfig(shift=0, colour=0.0)
SUPERVISED = SFTConfig(steps=60, batch=16, validate_every=10, warmup=2, augment=PLAIN)
PPO = Config(
    suite="pointmass",
    threads=1,
    expert_tasks=("left-disc",),
    rl_tasks=(TASK,),
    unseen_tasks=("left-square-orange",),
    env=EnvConfig(image_size=32, horizon=12, workers=2, envs_per_worker=2),
    expert=ExpertConfig(episodes=8),
    model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
    sft=SUPERVISED,
    ppo=PPOConfig(steps=384, rollout=16, minibatch=32, warmup=1, checkpoint_every=1),
    harvest=HarvestConfig(episodes=2, attempts=12),
    sl=SUPERVISED,
    eval=EvalConfig(episodes=2, interim=1, videos=False),
)
SAC = replace(
    PPO,
    rl="sac",
    sac=SACConfig(
        steps=120,
        demonstrations=3,
        attempts=60,
        gripper=False,
        batch=16,
        utd=1,
        critics=2,
        warmup=10,
        checkpoint_every=4,
        updates_per_decision=0.5,
        converged=2.0,
    ),
    harvest=HarvestConfig(episodes=2, attempts=20, from_training=True),
    sl=replace(SUPERVISED, steps=10, validate_every=5),
)
FIRST = changed(
    replace(PPO, method="sft"),
    expert={"episodes": 20},
    sft={"steps": 250, "batch": 32, "validate_every": 250, "warmup": 10},
)


@dataclass(frozen=True)
class Kind:
    """One kind of long work."""

    name: str
    config: Config
    repeats: bool = True  # interrupted, it ends with the same bits
    pace: float = 1.0  # of kills: short work is killed sooner, a learner apart starts slowly

    def words(self, root: Path) -> list[str]:
        """Return the command that does it in `root`."""
        if self.name == "collect":
            return ["collect", PRESET, "--out", str(root / "expert"), "--tasks", "left-disc"]
        return ["run", PRESET, "--out", str(root)]


def kinds(folder: Path) -> list[Kind]:
    """Return PPO, SAC, SAC with a learner apart, a collection of demonstrations, and PPO whose
    supervised stages other processes compute.

    SAC needs a policy that sometimes succeeds: it is trained once, in `folder`.
    """
    first = folder / "first"
    if not (first / "results.json").exists():
        undisturbed(folder / "first.log", ["run", PRESET, "--out", str(first)], FIRST)
    start = replace(SAC, from_checkpoint=str(first / "checkpoints" / "sft"))
    sac = changed(start, expert={"dataset": str(first / "expert")})
    apart = changed(sac, sac={"async_learner": True})
    many = changed(PPO, expert={"episodes": 600})
    share = str(folder / "share")
    others = changed(PPO, compute={"stage0": "torchrun", "stage2": "torchrun", "share": share})
    return [
        Kind("ppo", PPO),
        Kind("sac", sac),
        Kind("async", apart, repeats=False, pace=0.4),
        Kind("collect", many, pace=3.0),
        Kind("torchrun", others, pace=0.15),
    ]


def reference(kind: Kind, folder: Path) -> Path:
    """Return a run of that kind which nothing stops, made once."""
    root = folder / f"whole-{kind.name}"
    if not root.exists():
        root.mkdir(parents=True)
        undisturbed(folder / f"whole-{kind.name}.log", kind.words(root), kind.config)
    return root
