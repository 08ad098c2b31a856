"""What a run starts from: a policy, D_e, and tasks that a file describes. All are pinned by
their hashes."""

import hashlib
import json
from dataclasses import replace

import torch

from irevla.compute.device import find_device, seeded
from irevla.data.demonstrated import Demonstrated
from irevla.data.episodes import EpisodeStore, ExpertDataset
from irevla.envs.suite import SUITES, Suite
from irevla.errors import UserError
from irevla.models.files import WEIGHTS, check_fits
from irevla.models.policy import VLAPolicy, build_policy
from irevla.progress import console
from irevla.rollout.demonstrations import check_dataset, collect_expert, open_demonstrations
from irevla.runs.run import Run, is_finished
from irevla.tasks import Stage, TaskLists, draw_seed


def new_policy(
    run: Run, suite: Suite, stage: Stage, expert: ExpertDataset | None = None
) -> VLAPolicy:
    """Return the VLM that the configuration names, with a new head, drawn for `stage`.

    Where it is told the robot's state, the scale of that is as in `expert`, D_e; so is the scale of
    its actions, where that is not the suite's.

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
            state_dim=suite.state_dim(config.env),
            cameras=config.env.cameras,
            device=find_device(config.device),
        )
    if policy.state_dim:
        assert expert is not None, "what scale the state has is to be seen in D_e"
        policy.state_scale.fit(torch.from_numpy(expert.read().state))
    policy.discrete_gripper = config.discrete_gripper
    if config.model.action_scale != "suite":
        assert expert is not None, "what range actions have is to be seen in D_e"
        actions = torch.from_numpy(expert.read().actions)
        policy.action_scale.fit(actions, gripper=policy.discrete_gripper)
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
        state_dim=suite.state_dim(config.env),
        cameras=config.env.cameras,
        path=name,
    )
    if config.discrete_gripper and not policy.action_scale.grips:
        raise UserError(
            f"SAC opens and closes the gripper wholly, and what {name} calls open and closed is "
            "what its demonstrations showed: --sac.no-gripper, or make stage 0 with --rl sac"
        )
    run.pin("policy", name, sha256=policy.hash())
    policy.discrete_gripper = config.discrete_gripper
    policy.set_execute(config.model.execute)
    return policy


def expert_dataset(run: Run, suite: Suite, tasks: TaskLists) -> ExpertDataset:
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
    dataset = open_demonstrations(suite, tasks.expert, config.expert, env=config.env)
    if run.journal.done("pinned dataset") is None:
        if isinstance(dataset, EpisodeStore):
            check_dataset(suite, dataset, env=config.env)
        else:
            _note(run, dataset)
    run.pin("dataset", config.expert.dataset, sha256=dataset.hash())
    return dataset


def pin_tasks(run: Run, suite: Suite, tasks: TaskLists) -> None:
    """Note in the journal what the tasks of a run are, where a person's file says so: their names
    and instructions.

    Raises `UserError` where they are others than when the run began.
    """
    if suite.source in SUITES and suite.real_arm is None:
        return
    every = [suite.task(name) for name in tasks.all]
    told = [tasks.expert, tasks.rl, tasks.unseen, [task.instruction for task in every]]
    sha256 = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    run.pin("description", f"of the tasks of {suite.name}", sha256=sha256)


def _note(run: Run, dataset: Demonstrated) -> None:
    """Decode the images, which may be broken, and say what is learnt from: once."""
    dataset.read()
    counts = ", ".join(f"{task} {number}" for task, number in dataset.counts().items())
    note = "; ".join([f"demonstrations of {dataset.root}: {counts}", *dataset.notes])
    console.print(note, soft_wrap=True)
    run.journal.append("dataset", note=note)
