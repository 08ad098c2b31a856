"""What a run starts from: a policy, and the expert dataset D_e. Both are pinned by their hashes."""

from dataclasses import replace
from pathlib import Path

from irevla.compute.device import find_device, seeded
from irevla.data.episodes import EpisodeStore
from irevla.envs.suite import Suite
from irevla.errors import UserError
from irevla.models.files import WEIGHTS, check_fits
from irevla.models.policy import VLAPolicy, build_policy
from irevla.rollout.demonstrations import check_dataset, collect_expert, open_store
from irevla.runs.run import Run, is_finished
from irevla.tasks import Stage, TaskLists, draw_seed


def new_policy(run: Run, suite: Suite, stage: Stage) -> VLAPolicy:
    """Return the VLM that the configuration names, with a new head, drawn for `stage`.

    Of a pretrained VLM, the run keeps the commit and the type that it began with: a branch may have
    moved, or a run gone to another machine, before it is resumed.
    """
    config = run.config
    begun = run.journal.done("vlm")
    model = config.model
    if begun:
        model = replace(model, revision=begun["revision"], dtype=begun["dtype"])
    with seeded(draw_seed(run.draws(stage), "weights")):
        policy = build_policy(
            model,
            action_dim=suite.action_dim,
            image_size=config.env.image_size,
            device=find_device(config.device),
        )
    policy.discrete_gripper = config.discrete_gripper
    if config.model.pretrained and not begun:
        run.journal.append("vlm", revision=policy.config.revision, dtype=policy.config.dtype)
    return policy.eval()


def finished_policy(run: Run) -> VLAPolicy | None:
    """Return what a run ended with that has nothing left to do; None where there is something.

    It needs neither the policy nor the dataset that the run started from.
    """
    has_own = any((run.directory / "checkpoints").glob(f"[!.]*/{WEIGHTS}"))
    if not (is_finished(run.directory) and has_own):
        return None
    return VLAPolicy.from_pretrained(run.directory, device=find_device(run.config.device))


def starting_policy(run: Run, suite: Suite) -> VLAPolicy:
    """Return the policy that `from_checkpoint` names.

    Raises `UserError` where it does not fit the suite, and where it is not the one that the run
    began with.
    """
    config = run.config
    name = config.from_checkpoint
    policy = VLAPolicy.from_pretrained(name, device=find_device(config.device))
    check_fits(
        policy,
        suite=suite.name,
        action_dim=suite.action_dim,
        image_size=config.env.image_size,
        path=name,
    )
    run.pin("policy", name, sha256=policy.hash())
    policy.discrete_gripper = config.discrete_gripper
    return policy


def expert_dataset(run: Run, suite: Suite, tasks: TaskLists) -> EpisodeStore:
    """Return D_e: the dataset that the configuration names, or demonstrations by the scripted
    experts.

    Raises `UserError` where it is not of the expert tasks, and where it is not the one that the run
    began with.
    """
    config = run.config
    if not config.expert.dataset:
        return collect_expert(
            suite,
            tasks.expert,
            config.expert,
            env=config.env,
            seed=config.seed,
            root=run.directory / "expert",
        )
    path = Path(config.expert.dataset)
    store = open_store(suite, config.env, path)
    missing = sorted(set(tasks.expert) - set(store.counts()))
    others = sorted(set(store.counts()) - set(tasks.expert))
    if missing or others:
        fault = f"it lacks {', '.join(missing)}" if missing else f"it also has {', '.join(others)}"
        raise UserError(
            f"dataset {path} is not of the expert tasks: {fault}; adapt expert_tasks or the dataset"
        )
    if run.journal.done("pinned dataset") is None:
        check_dataset(suite, store, env=config.env)
    run.pin("dataset", str(path), sha256=store.hash())
    return store
