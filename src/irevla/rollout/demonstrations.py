"""Episodes worth imitating that no policy of ours played: the expert dataset D_e."""

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from irevla.config import EnvConfig, ExpertConfig
from irevla.data.demonstrated import Demonstrated, Wanted
from irevla.data.episodes import EpisodeStore, ExpertDataset
from irevla.data.fetched import dataset_folder
from irevla.data.lerobot import EpisodeInfo
from irevla.data.store_spec import Kind, StoreSpec, is_ours, is_vacant
from irevla.envs.processes import let_go
from irevla.envs.suite import PERSON, ActionRange, Authorization, Suite
from irevla.envs.vector import Job, VectorEnv
from irevla.errors import UserError
from irevla.progress import bar
from irevla.rollout.actors import BlindReplay, ScriptedExpert
from irevla.rollout.episodes import EpisodeRecorder, Outcome, in_order
from irevla.rollout.serve import Server
from irevla.storage import disk
from irevla.tasks import Purpose, first_seed, plain
from irevla.types import Episode

ATTEMPTS = 20  # first attempts, then retries with new seeds for those that failed
REPLAYED = 5  # demonstrations of each task that the blind baseline replays: one may be lucky
CHECKED = 2  # demonstrations of each task that are played again before a dataset is learnt from
FLUSH = 50  # episodes written at once


def open_store(
    suite: Suite, config: EnvConfig, root: Path, *, kind: Kind = "expert"
) -> EpisodeStore:
    """Return the dataset at `root`, new where there is none.

    Raises `UserError` where it is of another suite, or was drawn with other settings.
    """
    spec = StoreSpec(
        suite=suite.name,
        image_shape=config.image_shape,
        action_dim=suite.action_dim,
        fps=max(1, round(suite.rate(config))),
        state_dim=suite.state_dim(config),
        cameras=config.cameras,
        render=dict(suite.render_settings(config)),
        kind=kind,
    )
    return EpisodeStore(root, spec)


def open_demonstrations(
    suite: Suite, tasks: Sequence[str], config: ExpertConfig, *, env: EnvConfig
) -> EpisodeStore | Demonstrated:
    """Return the dataset that `config` names, irevla's or anybody's, as D_e of `tasks`.

    Raises `UserError` with the remedy where it does not fit them. Nothing is decoded or written.
    """
    root = dataset_folder(config.dataset, env.cameras or [config.camera] * bool(config.camera))
    if is_ours(root):
        if config.camera or config.stride != 1:
            raise UserError(
                f"irevla made {root}, for this suite alone: leave expert.camera and expert.stride "
                "out"
            )
        store = open_store(suite, env, root)
        _check_tasks(store, tasks)
        return store
    one = np.ones(suite.action_dim, np.float32)
    actions = suite.action_range or ActionRange(-one, one)
    wanted = Wanted(
        suite=suite.name,
        instructions={task: suite.task(task).instruction for task in tasks},
        low=actions.low,
        high=actions.high,
        displacements=actions.displacements,
        fps=suite.rate(env),
        image_size=env.image_size,
        state_dim=suite.state_dim(env),
        cameras=env.cameras,
    )
    return Demonstrated(root, wanted, camera=config.camera, stride=config.stride)


def _check_tasks(store: EpisodeStore, tasks: Sequence[str]) -> None:
    """Raise `UserError` unless the store has demonstrations of `tasks` and of nothing else."""
    missing = sorted(set(tasks) - set(store.counts()))
    others = sorted(set(store.counts()) - set(tasks))
    if missing or others:
        fault = f"it lacks {', '.join(missing)}" if missing else f"it also has {', '.join(others)}"
        raise UserError(
            f"dataset {store.root} is not of the expert tasks: {fault}; adapt expert_tasks or the "
            "dataset"
        )


def collect_expert(
    suite: Suite,
    tasks: Sequence[str],
    config: ExpertConfig,
    *,
    env: EnvConfig,
    seed: int,
    root: Path,
) -> EpisodeStore:
    """Bring D_e at `root` to `config.episodes` successful demonstrations of each task.

    A share of them (`config.noisy_fraction`) is executed with action noise and labelled with the
    clean action. Interrupted, it goes on where it was, and ends with the same episodes in the same
    order as if it had not been. Raises `UserError` where there is no scripted expert, where it
    fails too often, and where noise would shake a real arm with a person beside it.
    """
    if not suite.scripted_expert:
        raise UserError(
            f"{suite.name} has no scripted expert: name demonstrations as --expert.dataset"
        )
    if suite.real_arm is not None and config.noise * config.noisy_fraction > 0:
        raise UserError(
            f"{suite.name} moves an arm with a person beside it, and noise would shake it: "
            "--expert.noisy-fraction 0"
        )
    suite.check_senses(env)
    for task in tasks:
        suite.task(task)
    wanted = dict.fromkeys(tasks, config.episodes)
    first = first_seed(Purpose.EXPERT, seed)
    patient = replace(env, horizon=config.horizon or env.horizon)
    with (
        _collecting(suite, env, root) as store,
        bar(f"Demonstrations of {len(tasks)} tasks", sum(wanted.values())) as advance,
    ):
        for attempt in range(ATTEMPTS):
            jobs = list(_missing(store, wanted, attempt, config=config, first=first))
            if suite.real_arm is not None:
                jobs = in_turn(jobs, suite.real_arm.partner)
            # What a person has shown is kept at once: nobody can show it again.
            most = FLUSH if suite.real_arm is None else 1
            for episodes in _batches(play_expert(suite, patient, jobs), most):
                store.extend(episodes)
                advance(len(store), "")
            advance(len(store), f"{len(store)} episodes")
    let_go()  # a model of each task for each environment: 2.4 GB in the kitchen
    counts = store.counts()
    lacking = [
        f"{task} {counts.get(task, 0)}" for task in tasks if counts.get(task, 0) < wanted[task]
    ]
    if lacking:
        raise UserError(
            f"the scripted expert failed too often ({', '.join(lacking)} of {config.episodes} "
            "demonstrations): choose other tasks, a longer expert.horizon or less expert.noise"
        )
    return store


@contextmanager
def _collecting(suite: Suite, env: EnvConfig, root: Path) -> Iterator[EpisodeStore]:
    """Yield the dataset at `root`, new where there is none, and hold it for a whole collection.

    One that is refused before it has an episode leaves no dataset behind, whose settings would
    bind the next. Raises `UserError` where another process collects into it.
    """
    new = is_vacant(root)
    open_store(suite, env, root)
    with disk.locked(root / "meta", wait=False) as mine:
        if not mine:
            raise UserError(
                f"another process is collecting into {root}; wait for it, or choose another place"
            )
        try:
            yield open_store(suite, env, root)  # another collection may just have ended
        except UserError:
            if new and not (root / "data").exists():
                shutil.rmtree(root / "meta")
                with suppress(OSError):  # what else is in it is not ours
                    root.rmdir()
            raise


def play_expert(suite: Suite, env: EnvConfig, jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Yield episodes of the scripted expert, with images, in the order of `jobs`.

    On a real arm the expert is a person, who moves it by hand.
    """
    if not jobs:
        return
    who = None if suite.real_arm is None else Authorization(PERSON)
    with VectorEnv(suite, env, iter(jobs), authorization=who) as vec:
        server = Server(vec, ScriptedExpert(), EpisodeRecorder(vec, images=True))
        yield from in_order(server.serve(), jobs, vec.given_up)


def _missing(
    store: EpisodeStore, wanted: dict[str, int], attempt: int, *, config: ExpertConfig, first: int
) -> Iterator[Job]:
    """Yield what to try now: one seed for each demonstration first, a new one for each that
    failed."""
    done = store.seeds()
    for task, number in wanted.items():
        for index in range(number):
            seeds = [first + index + late * number for late in range(ATTEMPTS)]
            if not any((task, seed) in done for seed in seeds):
                before = int(index * config.noisy_fraction)
                noisy = int((index + 1) * config.noisy_fraction) > before
                noise = config.noise if noisy else 0.0
                yield Job(task, seeds[attempt], noise=noise, burst=config.burst)


def in_turn(jobs: Sequence[Job], partner: Callable[[str], str]) -> list[Job]:
    """Return the jobs, those of two tasks that undo each other in turn: a person need not put
    things back where one succeeds and the other follows."""
    left: dict[str, deque[Job]] = {}
    for job in jobs:
        left.setdefault(job.task, deque()).append(job)
    ordered = []
    for task, own in left.items():
        other = left.get(partner(task), deque())
        while own:
            ordered.append(own.popleft())
            if other:
                ordered.append(other.popleft())
    return ordered


def _batches(outcomes: Iterable[Outcome], most: int) -> Iterator[list[Episode]]:
    """Yield the successful episodes in batches of `most`, one file each."""
    batch: list[Episode] = []
    for outcome in outcomes:
        if outcome.success and outcome.episode is not None:
            batch.append(outcome.episode)
        if len(batch) >= most:
            yield batch
            batch = []
    if batch:
        yield batch


def import_recordings(
    suite: Suite, tasks: Sequence[str], *, path: Path, most: int, env: EnvConfig, root: Path
) -> EpisodeStore:
    """Bring what people have demonstrated, in the recordings at `path`, into D_e at `root`.

    What is there is kept. Raises `UserError` where nobody demonstrated this suite, or one of the
    tasks.
    """
    if suite.demonstrations is None:
        raise UserError(
            f"no recordings of people are known for {suite.name}: leave --demonstrations out"
        )
    if not path.exists():
        raise UserError(f"there are no demonstrations {path}: name a file or a folder")
    episodes = suite.demonstrations(path, tasks, env, most)
    store = open_store(suite, env, root)
    done = store.seeds()
    with bar(f"Demonstrations of {len(tasks)} tasks", len(tasks) * most) as advance:
        for episode in episodes:
            if (episode.provenance.task, episode.provenance.seed) not in done:
                store.append(episode)
            advance(len(store), f"{len(store)} episodes")
    return store


def check_dataset(suite: Suite, store: EpisodeStore, *, env: EnvConfig) -> None:
    """Replay some of the scripted expert's demonstrations from their own starts.

    Actions that were scaled, negated or in another order train without a word. Raises `UserError`
    where more than half of them do not succeed as recorded. Those of people, and those that were
    disturbed, cannot be repeated; nor is anything on a real arm.
    """
    if suite.real_arm is not None:
        return
    solved = played = 0
    for chosen in _repeatable(store):
        actions = {task: [store[info.index].actions] for task, info in chosen.items()}
        jobs = [Job(task, info.provenance.seed, draw=False) for task, info in chosen.items()]
        longest = max(info.length for info in chosen.values())
        with VectorEnv(suite, replace(env, horizon=longest), iter(jobs)) as vec:
            for outcome in Server(vec, BlindReplay(actions), EpisodeRecorder(vec)).serve():
                played += 1
                solved += outcome.success
    if 2 * solved < played:
        raise UserError(
            f"of {played} demonstrations of {store.root}, played again in {suite.name} from their "
            f"own starts, {solved} succeed: their actions are not those of this suite (scaled, "
            "negated, in another order?); collect them anew"
        )


def _repeatable(store: EpisodeStore) -> Iterator[dict[str, EpisodeInfo]]:
    """Yield, `CHECKED` times, one undisturbed demonstration by the expert of each task."""
    by_task: dict[str, list[EpisodeInfo]] = {}
    for info in store.episodes:
        made = info.provenance
        if made.source == "expert" and not made.noise and info.success:
            by_task.setdefault(made.task, []).append(info)
    for number in range(CHECKED):
        chosen = {task: infos[number] for task, infos in by_task.items() if len(infos) > number}
        if chosen:
            yield chosen


def replayed_demonstrations(
    suite: Suite, tasks: Sequence[str], *, env: EnvConfig, seed: int
) -> dict[str, list[Outcome]]:
    """Return `REPLAYED` successful demonstrations of each task, without images: for blind replay.

    A task that the scripted expert never solves is left out: stage 1 needs none of it.
    """
    found: dict[str, list[Outcome]] = {task: [] for task in tasks}
    first = first_seed(Purpose.BLIND, seed)
    for attempt in range(ATTEMPTS):
        seeds = first + attempt * REPLAYED
        jobs = [
            Job(task, seeds + index, draw=False)
            for task in tasks
            for index in range(REPLAYED - len(found[task]))
        ]
        few = replace(env, workers=min(env.workers, max(1, len(jobs))))
        for outcome in play_expert(suite, few, jobs):
            if outcome.success:
                found[outcome.job.task].append(outcome)
    return {task: outcomes for task, outcomes in found.items() if outcomes}


def recorded_demonstrations(
    suite: Suite, tasks: Sequence[str], expert: ExpertDataset
) -> dict[str, list[Float32[np.ndarray, "_ A"]]]:
    """Return the actions of `REPLAYED` episodes of `expert` of each task: for blind replay.

    A task whose instruction it does not have is left out.
    """
    frames = expert.read()
    written = np.array([plain(text) for text in frames.instructions])
    found = {}
    for task in tasks:
        numbers = np.flatnonzero(written == plain(suite.task(task).instruction))
        episodes = np.unique(frames.episode[np.isin(frames.instruction, numbers)])
        actions = [frames.actions[frames.episode == number] for number in episodes[:REPLAYED]]
        if actions:
            found[task] = actions
    return found
