"""What surrounds Algorithm 1: which tasks, which data, which device, and the tests between its
stages."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from irevla.collect import collect_expert, demonstrations, open_store
from irevla.config import METHODS, Config, EnvConfig, ModelConfig
from irevla.data.episodes import EpisodeStore
from irevla.envs.base import (
    Suite,
    Supervised,
    TaskEnv,
    admitted,
    find_task,
    load_suite,
    named_tasks,
)
from irevla.errors import UserError
from irevla.evaluation.card import exported_settings, run_of
from irevla.evaluation.evaluate import blind_replay, evaluate
from irevla.evaluation.stats import Row
from irevla.evaluation.video import write_video
from irevla.models.build import VLMS, build_policy, check_model
from irevla.models.files import CONFIG, Description, parse, read_policy
from irevla.models.hub import locate
from irevla.models.policy import VLAPolicy
from irevla.models.vlm.tokenizer import words
from irevla.rollout import Actor, RolloutStats
from irevla.runs.progress import bar
from irevla.runs.run import Run, read_config, write_atomically
from irevla.seeds import Purpose, first_seed
from irevla.types import Category

VIDEO_SIZE = 256  # pixels


@dataclass(frozen=True)
class Tasks:
    """The paper's three categories for one run."""

    expert: tuple[str, ...]
    rl: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Every task once, in the order expert, RL, unseen."""
        return tuple(dict.fromkeys(self.expert + self.rl + self.unseen))


def check(config: Config) -> tuple[Suite, Tasks]:
    """The suite and the tasks. Raises `UserError` for all that can be seen to be wrong before any
    work is done."""
    suite = load_suite(config.suite)
    suite.check()
    if isinstance(suite, Supervised):
        _check_supervised(suite, config)
    check_model(_starting_model(config, suite), device(config.device))
    if config.expert.dataset and not Path(config.expert.dataset).is_dir():
        raise UserError(
            f"no dataset {config.expert.dataset}; name another as expert.dataset, or none to collect one"
        )
    return suite, choose_tasks(config, suite)


def _check_supervised(suite: Supervised, config: Config) -> None:
    """Where acting takes a person, nothing acts but the policies: no scripted expert, no blind
    replay, no film; and stage 1 must know who acted."""
    if not config.expert.dataset:
        raise UserError(
            f"{config.suite} has no scripted expert: let people demonstrate (`irevla collect {config.suite}`), and "
            "name what they showed as --expert.dataset"
        )
    learns = METHODS[config.method].rl != "none"
    if learns and suite.pinned():
        raise UserError(
            f"the arm's settings name one policy ({suite.pinned()[:16]}), and a run makes others: "
            "take `policy` out of the settings"
        )
    if learns and config.rl != "sac":
        raise UserError(
            f"--rl sac on {config.suite}: PPO would take what a person does there for its own action"
        )
    if config.eval.videos:
        raise UserError(f"there are no videos of {config.suite}: --eval.no-videos")


def _starting_model(config: Config, suite: Suite) -> ModelConfig:
    """The model that the run starts from, once it is known to fit the suite."""
    if config.from_checkpoint:
        what = parse(read_policy(locate(config.from_checkpoint)))
        _check_fits(what, suite, image_size=config.env.image_size, path=config.from_checkpoint)
        return what.model
    if config.model.vlm in VLMS:
        VLMS[config.model.vlm](
            config.model, config.env.image_size
        )  # a small one is made at once, or says why not
    return config.model


def choose_tasks(config: Config, suite: Suite) -> Tasks:
    """The configured tasks, or all of the category where none are named. `UserError` for a name
    that does not exist."""
    tasks = Tasks(
        named_tasks(suite, config.expert_tasks, Category.EXPERT),
        named_tasks(suite, config.rl_tasks, Category.RL),
        named_tasks(suite, config.unseen_tasks, Category.UNSEEN),
    )
    leaked = sorted(set(tasks.unseen) & set(tasks.expert + tasks.rl))
    if leaked:
        raise UserError(
            f"{', '.join(leaked)} is to be unseen and trained on; take it out of one of the lists"
        )
    return tasks


def expert_dataset(run: Run, tasks: Tasks) -> EpisodeStore:
    """D_e: the dataset that the configuration names, or demonstrations by the scripted experts."""
    config = run.config
    if not config.expert.dataset:
        return collect_expert(
            config.suite,
            tasks.expert,
            config.expert,
            env=config.env,
            seed=config.seed,
            root=run.directory / "expert",
        )
    path = Path(config.expert.dataset)
    store = open_store(load_suite(config.suite), config.env, path)
    missing = sorted(set(tasks.expert) - set(store.counts()))
    strangers = sorted(set(store.counts()) - set(tasks.expert))
    if missing or strangers:
        fault = (
            f"it lacks {', '.join(missing)}" if missing else f"it also has {', '.join(strangers)}"
        )
        raise UserError(
            f"dataset {path} is not of the expert tasks: {fault}; adapt expert_tasks or the dataset"
        )
    return store


def starting_policy(config: Config, suite: Suite) -> VLAPolicy:
    """The policy that `from_checkpoint` names, if it fits the suite."""
    policy = VLAPolicy.from_pretrained(config.from_checkpoint, device=device(config.device))
    _check_fits(policy, suite, image_size=config.env.image_size, path=config.from_checkpoint)
    policy.gripper = grips(config)
    return policy


def strange_words(suite: str) -> tuple[str, ...]:
    """Words that no instruction of the suite has: what `sft.words` puts into them. Unseen tasks
    stay unseen."""
    known = {word for task in load_suite(suite).tasks for word in task.instruction.lower().split()}
    return tuple(word for word in words() if word.isalpha() and len(word) > 2 and word not in known)


def grips(config: Config) -> bool:
    """Whether the policies of a run execute the gripper as open or closed: in all stages, so that
    these compare."""
    return config.rl == "sac" and config.sac.gripper


def _check_fits(
    policy: VLAPolicy | Description, suite: Suite, *, image_size: int, path: str
) -> None:
    if policy.action_dim != suite.action_dim or policy.image_size != image_size:
        raise UserError(
            f"{path} acts in {policy.action_dim} dimensions on pictures of {policy.image_size} pixels, but "
            f"{suite.name} has {suite.action_dim} and {image_size}; choose another policy or env.image_size"
        )


def device(name: str) -> torch.device:
    """The device that a configuration names; "auto" is CUDA when present."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch built without CUDA
        raise UserError(f"device {name!r} cannot be used here; choose auto or cpu") from error
    return chosen


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use `number` threads on the CPU: one beside worker processes, one per core in
    supervised learning."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def baselines(run: Run, tasks: Tasks) -> None:
    """What success is worth on each task: the blind replay of demonstrations, on the evaluation
    seeds. Not where a person would have to watch it."""
    config, event = run.config, "evaluated baseline"
    if run.journal.done(event) is None and not isinstance(load_suite(config.suite), Supervised):
        replayed = {
            task: [episode.actions for episode in episodes]
            for task, episodes in demonstrations(
                config.suite, tasks.all, env=config.env, seed=config.seed
            ).items()
        }
        rows = blind_replay(
            replayed, config.suite, env=config.env, episodes=config.eval.episodes, seed=config.eval.seed,
            run_seed=config.seed,
        )  # fmt: skip
        _keep(run, event, rows)


def test(run: Run, policy: VLAPolicy, tasks: Tasks, stage: str, episodes: int) -> None:
    """Success rates of all tasks after `stage`, once; nothing where `episodes` is 0."""
    event = f"evaluated {stage}"
    if not episodes or run.journal.done(event) is not None:
        return
    if isinstance(
        load_suite(run.config.suite), Supervised
    ):  # a person's time: each task is kept when it is done
        rows = [
            row for task in tasks.all for row in _tested_once(run, policy, task, stage, episodes)
        ]
    else:
        rows = _tested(run, policy, tasks.all, stage, episodes)
    _keep(run, event, rows)


def _tested_once(run: Run, policy: VLAPolicy, task: str, stage: str, episodes: int) -> list[Row]:
    event = f"tested {task}, {stage}"
    if (record := run.journal.done(event)) is None:
        rows = _tested(run, policy, (task,), stage, episodes)
        run.journal.append(event, rows=[row.to_json() for row in rows])
        return rows
    return [Row.from_json(row) for row in record["rows"]]


def _tested(
    run: Run, policy: VLAPolicy, tasks: Sequence[str], stage: str, episodes: int
) -> list[Row]:
    config = run.config
    with threads(1):
        return evaluate(
            Actor(policy), config.suite, tasks, env=admitted(config.suite, policy, config.env),
            episodes=episodes, seed=config.eval.seed, method=config.method, stage=stage, run_seed=config.seed,
        )  # fmt: skip


def _keep(run: Run, event: str, rows: Sequence[Row]) -> None:
    run.journal.append(event, rows=[row.to_json() for row in rows])
    run.write_results()


def videos(run: Run, policy: VLAPolicy, tasks: Tasks) -> None:
    """One episode of every task by the final policy, on its first evaluation seed:
    DIR/videos/TASK.mp4 and index.json."""
    config, event = run.config, "videos"
    if not config.eval.videos or run.journal.done(event) is not None:
        return
    suite, seed = load_suite(config.suite), first_seed(Purpose.EVALUATION, config.eval.seed)
    stage = next(
        record["event"]
        for record in reversed(list(run.journal))
        if record["event"].startswith("evaluated ")
    )
    index: dict[str, dict[str, Any]] = {}
    with bar("Videos", len(tasks.all)) as advance, threads(1):
        for task in tasks.all:
            frames, success = film(policy, suite, task, env=config.env, seed=seed)
            write_video(run.directory / "videos" / f"{task}.mp4", frames, fps=suite.fps)
            index[task] = {
                "success": success,
                "seed": seed,
                "stage": stage.removeprefix("evaluated "),
            }
            advance(len(index), task)
    write_atomically(run.directory / "videos" / "index.json", json.dumps(index, indent=1))
    run.journal.append(event)


def film(
    policy: VLAPolicy, suite: Suite, task: str, *, env: EnvConfig, seed: int
) -> tuple[UInt8[np.ndarray, "T H W 3"], bool]:
    """Play one episode with the policy's mean, in this process; its pictures at video size, and
    whether it succeeded."""
    world = suite.make(task, env)
    instruction, eye = find_task(suite, task).instruction, world.unwrapped
    assert isinstance(eye, TaskEnv)
    observation, _ = world.reset(seed=seed)
    frames, success, over = [eye.picture(VIDEO_SIZE)], False, False
    while not over:
        observation, _, terminated, truncated, info = world.step(
            policy.act(observation, instruction)
        )
        frames.append(eye.picture(VIDEO_SIZE))
        success, over = bool(info["success"]), terminated or truncated
    world.close()
    return np.stack(frames), success


def evaluate_saved(
    path: Path, tasks: Sequence[str], *, episodes: int, seed: int, elsewhere: str = ""
) -> list[Row]:
    """Success rates of a run's newest policy, of one of its checkpoints, or of an exported policy
    (a folder, or "owner/name" on the Hub), with the environment settings of the run that made it;
    on its suite, or `elsewhere`."""
    place, config = _find(path)
    config = replace(config, suite=elsewhere or config.suite)
    suite = load_suite(config.suite)
    suite.check()
    chosen = [find_task(suite, task).name for task in tasks] or list(
        choose_tasks(config, suite).all
    )
    policy = VLAPolicy.from_pretrained(place, device=device(config.device))
    _check_fits(policy, suite, image_size=config.env.image_size, path=str(path))
    env = admitted(config.suite, policy, config.env)
    with threads(1):
        return evaluate(
            Actor(policy), config.suite, chosen, env=env, episodes=episodes, seed=seed,
            method=config.method, stage=path.absolute().name, run_seed=config.seed,
        )  # fmt: skip


def _find(path: Path) -> tuple[Path, Config]:
    """The folder of the policy that `path` names, and where it acts: as the policy itself says,
    else its run."""
    if (path / "config.yaml").is_file() and not (path / CONFIG).is_file():
        config = _settings_of_run(path)
        return locate(path), config
    place = locate(path)
    carried, run = exported_settings(place), run_of(place)
    if carried is not None:
        return place, carried
    if run is None:
        raise UserError(
            f"{path} does not say where it acts: name a run, a checkpoint in one, or what push has written"
        )
    return place, _settings_of_run(run)


def _settings_of_run(run: Path) -> Config:
    try:
        return read_config(run)
    except UserError as error:
        reason = str(error).partition(";")[
            0
        ]  # without its remedy, which is for who wrote the file by hand
        raise UserError(
            f"{run} is no run of Algorithm 1 that can be read here ({reason}): name one, or what push has written"
        ) from error


def of_rollout(stats: RolloutStats, policy: VLAPolicy) -> dict[str, float]:
    """What stage 1 logs of a rollout; only what is known (no episode may have ended)."""
    lengths = [outcome.length for outcome in stats.finished]
    known = {"success": stats.success_rate, "length": float(np.mean(lengths))} if lengths else {}
    return known | {
        "episodes": len(lengths),
        "dropped": stats.dropped,
        "std": policy.log_std.exp().mean().item(),
        "env_seconds": stats.env_seconds,
        "encode_seconds": stats.encode_seconds,
    }


def new_policy(run: Run, suite: Suite) -> VLAPolicy:
    """The VLM that the configuration names, with a new head. Of a pretrained one, the run keeps the
    commit and the type that it began with: a branch may have moved, or a run gone to another
    machine, before it is resumed."""
    config, begun = run.config, run.journal.done("vlm")
    pinned = {name: begun[name] for name in ("revision", "dtype")} if begun else {}
    torch.manual_seed(config.seed)
    policy = build_policy(
        replace(config.model, **pinned), action_dim=suite.action_dim, image_size=config.env.image_size,
        device=device(config.device),
    )  # fmt: skip
    policy.gripper = grips(config)
    if config.model.pretrained and not begun:
        run.journal.append("vlm", revision=policy.config.revision, dtype=policy.config.dtype)
    return policy
