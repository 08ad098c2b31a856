"""A supervised stage whose steps are taken by other processes, on this machine or on a cluster.

What they learn comes back as checkpoints of the run, the very ones that this process would have
written. So the stage goes on from them here or elsewhere, with as many processes as there are then.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen
from typing import Any

import torch

from irevla.compute import engine
from irevla.compute.ray_actors import joined
from irevla.compute.ray_cluster import shares
from irevla.config import Config
from irevla.data.episodes import Frames
from irevla.data.shared_frames import put_frames
from irevla.errors import UserError
from irevla.learners.sft import SFT
from irevla.models.policy import VLAPolicy
from irevla.progress import Advance, bar, console
from irevla.rollout.fleet import let_go
from irevla.runs.run import Run
from irevla.stages.fit import note
from irevla.stages.job import SHARD, Job, JobFolder, submit
from irevla.storage.checkpoint import series_name
from irevla.storage.disk import cache_dir
from irevla.storage.read import shaped
from irevla.storage.share import Damaged, Share
from irevla.tasks import Parts, Stage

TRAINER = "irevla.stages.trainer"
POLL = 0.5  # seconds between two looks at how far a job is
LEARNER = "learner.json"  # the file of a checkpoint that says how many steps were taken
LOGS = "logs"  # in the run's directory: what the processes of each stage print


def check_engines(config: Config) -> None:
    """Raise `UserError` where those who compute elsewhere cannot, before any work: a share that
    cannot be used, no Ray, a cluster that does not answer or has too little."""
    compute = config.compute
    if compute.engines == {"inline"}:
        return
    Share(compute.share or str(cache_dir("share")))
    if "ray" not in compute.engines:
        return
    if find_spec("ray") is None:
        raise UserError("there is no Ray here: pip install 'irevla[ray]', or choose torchrun")
    supervised = "ray" in (compute.stage0, compute.stage2)
    with joined(compute.ray_address, asked="compute.ray_address"):
        shares(compute.processes if supervised else 1, compute.ray_resource, config.device)


@dataclass(frozen=True)
class Begun:
    """A stage that others compute."""

    folder: JobFolder[Job]
    process: Popen[bytes]  # who starts them


def learn_elsewhere(
    run: Run,
    policy: VLAPolicy,
    learner: SFT,
    stage: Stage,
    parts: Parts,
    *,
    title: str,
    expert: Frames,
    online: Frames | None,
    begun: Begun | None = None,
) -> None:
    """Let other processes take the steps of `learner`; then its last checkpoint is in the run.

    `begun`: what `begin_elsewhere` has started. Raises `UserError` where they could not; the same
    call goes on from where they came to.
    """
    if begun is not None:
        folder = begun.folder
        computing: AbstractContextManager[Popen[bytes]] = nullcontext(begun.process)
    else:
        folder = _submit(run, policy, learner, parts, expert=expert, online=online)
        computing = _started(run, stage, folder)
    results = Results(run, policy, learner, stage, folder)
    if begun is None:
        results.exchange()
    steps = learner.config.steps
    if results.updates < steps:
        if results.updates:
            console.print(f"going on from step {results.updates}")
        with _set_aside(policy), bar(title, steps) as advance, computing as process:
            _follow(process, results, advance)
    if results.updates < steps:
        raise _fault(run, stage, folder, results.updates)
    folder.drop()


@contextmanager
def begin_elsewhere(
    run: Run,
    policy: VLAPolicy,
    learner: SFT,
    stage: Stage,
    parts: Parts,
    *,
    expert: Frames,
    online: Frames | None,
) -> Iterator[Begun]:
    """Let other processes take the steps of `learner` meanwhile.

    What they learn waits in the share, for `learn_elsewhere` with the same stage. The policy may
    have the weights that an earlier attempt came to.
    """
    folder = _submit(run, policy, learner, parts, expert=expert, online=online)
    Results(run, policy, learner, stage, folder).exchange()
    with _started(run, stage, folder) as process:
        yield Begun(folder, process)


def _submit(
    run: Run,
    policy: VLAPolicy,
    learner: SFT,
    parts: Parts,
    *,
    expert: Frames,
    online: Frames | None,
) -> JobFolder[Job]:
    """Write the stage into the share."""
    share = Share(run.config.compute.share or str(cache_dir("share")))
    job = Job(
        parts=parts,
        seed=learner.seed,
        sft=learner.config,
        mixture=run.config.mixture,
        words=tuple(learner.words),
        device=run.config.device,
        threads=run.config.threads,
        expert=put_frames(share, expert),
        online=put_frames(share, online) if online else None,
    )
    return JobFolder(share, submit(share, job, policy.files()), Job.of_text)


def _started(
    run: Run, stage: Stage, folder: JobFolder[Job]
) -> AbstractContextManager[Popen[bytes]]:
    """Let the engine of `stage` compute the job for a while."""
    job = [folder.share.place, folder.name]
    if run.config.compute.shard:
        job.append(SHARD)
    return start_engine(run, stage, TRAINER, job)


def _follow(process: Popen[bytes], results: "Results", advance: Advance) -> None:
    """Take what comes back until the engine has ended."""
    while process.poll() is None:
        with suppress(UserError):  # newer by now, or out of reach: at the next look
            results.take()
        advance(results.step, note(results.metrics))
        time.sleep(POLL)
    results.take()
    advance(results.step, note(results.metrics))


class Results:
    """What comes back of a job: checkpoints and points of the curves, to where a run has them."""

    def __init__(
        self, run: Run, policy: VLAPolicy, learner: SFT, stage: Stage, folder: JobFolder[Job]
    ) -> None:
        self._run = run
        self._policy = policy
        self._learner = learner
        self._stage = stage
        self._folder = folder
        found = run.checkpoints.newest(stage.folder)
        self._own: dict[str, Any] = found[1] if found else {}
        self.updates: int = self._own[LEARNER]["updates"] if found else 0
        self.step = self.updates  # of the last point
        self.metrics: dict[str, float] = {}  # there

    def exchange(self) -> None:
        """Take what the job is ahead with; else give it what the run has, unless it has just
        that."""
        begun = self.updates
        try:
            self.take()
            if self.updates > begun or self._folder.holds(begun, self._own):
                return
        except Damaged as error:
            console.print(f"passed over: {error}", style="yellow", soft_wrap=True)
        self._folder.publish(self.updates, [], self._own)

    def take(self) -> None:
        """Take what is new.

        Raises `Damaged`, and changes neither the policy nor the run's checkpoints, where one is not
        whole or not of this policy.
        """
        progress = self._folder.progress()
        for row in progress.rows:
            if row["step"] > self.step:
                self.metrics = {name: row[name] for name in row if name != "step"}
                self.step = int(row["step"])
                self._run.metrics.log(self._stage.name, self.step, **self.metrics)
        if progress.updates <= self.updates:
            return
        files = self._folder.load(progress.files)
        try:
            with shaped("its optimizer"):
                self._learner.load_state(files)
                if self._learner.updates != progress.updates:
                    raise ValueError(f"it is not of step {progress.updates}")
            self._policy.load_files(files)  # at last, and wholly or not at all
        except UserError as error:
            raise Damaged(f"what came back of {self._stage.name} is damaged: {error}") from error
        self._run.checkpoints.save(series_name(self._stage.folder, progress.updates), files)
        self.updates = progress.updates


def engine_of(config: Config, stage: Stage) -> str:
    """Return who starts the processes of `stage`: see `ENGINES`."""
    compute = config.compute
    return {"sft": compute.stage0, "rl": compute.stage1}.get(stage.kind, compute.stage2)


def start_engine(
    run: Run, stage: Stage, module: str, job: Sequence[str]
) -> AbstractContextManager[Popen[bytes]]:
    """Let the engine of `stage` run `module` for a while.

    Ray waits for free CPUs and GPUs, and actors that rest on its cluster have some: they leave.
    """
    if engine_of(run.config, stage) == "ray":
        let_go()
    settings = engine_settings(run.config, stage)
    log = log_of(run, stage)
    log.parent.mkdir(exist_ok=True)
    return engine.started(settings, module, job, log=log)


def engine_settings(config: Config, stage: Stage) -> list[str]:
    """Return the engine of `stage` as `engine.started` takes it."""
    compute = config.compute
    processes = 1 if stage.kind == "rl" else compute.processes
    if engine_of(config, stage) == "torchrun":
        return engine.torchrun(processes)
    return engine.ray(
        processes,
        address=compute.ray_address,
        resource=compute.ray_resource,
        device=config.device,
    )


def log_of(run: Run, stage: Stage) -> Path:
    """Return where the other processes of a stage print to."""
    return run.directory / LOGS / f"{stage.folder}.log"


def _fault(run: Run, stage: Stage, folder: JobFolder[Job], updates: int) -> UserError:
    """Return what to say where an engine ended before the job was done."""
    reason = folder.failure() or engine.last_word(log_of(run, stage))
    if reason:
        return UserError(reason)
    return UserError(
        f"{stage.name}: the processes that {engine_of(run.config, stage)} started ended after "
        f"{updates} steps ({log_of(run, stage)} has what they said); the same command goes on from "
        "there"
    )


@contextmanager
def _set_aside(policy: VLAPolicy) -> Iterator[None]:
    """Leave the GPU to the others meanwhile, where the policy is on one."""
    device = policy.device
    if device.type != "cuda" or policy.config.quantize:
        yield
        return
    policy.to("cpu")
    torch.cuda.empty_cache()
    try:
        yield
    finally:
        policy.to(device)
