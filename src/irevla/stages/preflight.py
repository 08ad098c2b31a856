"""Everything that can be refused before any work."""

from collections.abc import Iterator
from importlib.util import find_spec
from math import ceil

from irevla.compute.device import find_device
from irevla.config import METHODS, Config, ModelConfig
from irevla.data.fetched import named
from irevla.envs.suite import Suite, load_suite
from irevla.errors import UserError
from irevla.learners.optim import unfinished_warm_up
from irevla.models.files import check_fits, parse, read_policy
from irevla.models.hub import locate
from irevla.models.vlm.registry import VLMS, check_model
from irevla.progress import console
from irevla.rollout.demonstrations import open_demonstrations
from irevla.rollout.fleet import check_rollouts
from irevla.stages.elsewhere import check_engines
from irevla.tasks import TaskLists


def preflight(config: Config) -> tuple[Suite, TaskLists]:
    """Return the suite and the tasks of a run.

    Raises `UserError` for all that can be seen to be wrong before any work is done.
    """
    suite = load_suite(config.suite)
    suite.check()
    suite.check_senses(config.env)
    if suite.real_arm is not None:
        _check_real_arm(suite, config)
    model = _starting_model(config, suite)
    check_model(model, find_device(config.device))
    if config.compute.shard and (not model.pretrained or not model.lora.rank or model.quantize):
        raise UserError(
            "compute.shard is for a VLM of transformers with LoRA (--model.lora.rank) that is not "
            "quantized: leave it out"
        )
    check_engines(config)
    check_rollouts(suite, config, execute=model.execute)
    if config.eval.videos and find_spec("av") is None:
        raise UserError("videos need PyAV: pip install 'irevla[report]', or --eval.no-videos")
    tasks = suite.task_lists(config)
    _check_demonstrations(suite, tasks, config)
    return suite, tasks


def say_what_surprises(config: Config) -> None:
    """Say what a run can do, and few would want: once, as it starts."""
    for line in (_who_plays_sac(config), *_warm_ups(config)):
        if line:
            console.print(line, style="yellow", soft_wrap=True)


def _who_plays_sac(config: Config) -> str:
    if config.rollouts.backend != "ray" or config.rl != "sac":
        return ""
    if METHODS[config.method].rl == "none":
        return ""
    return (
        "stage 1 by SAC plays in this process's environments, since its learner takes each "
        "episode as it ends: the actors of rollouts.backend ray play the harvest and the "
        "evaluations"
    )


def _warm_ups(config: Config) -> Iterator[str]:
    """Yield what is said of each learner whose warm-up its budget does not outlast."""
    method = METHODS[config.method]
    stage_0 = method.sft and not config.from_checkpoint
    if stage_0:
        yield unfinished_warm_up(config.sft, "sft.")
    if method.sl != "none":
        yield unfinished_warm_up(config.sl, "sl.")
    updates = _rl_updates(config)
    warmup = config.sac.warmup if config.rl == "sac" else config.ppo.warmup
    if method.rl != "none" and warmup >= updates:
        yield (
            f"{config.rl}.warmup {warmup} leaves nothing of the {updates} updates that "
            f"{config.rl}.steps allow: the policy will not change in stage 1; choose a smaller "
            f"{config.rl}.warmup, or more {config.rl}.steps"
        )


def _rl_updates(config: Config) -> int:
    """Return how many updates stage 1 makes of its whole budget."""
    if config.rl == "sac":
        return int(config.sac.steps * config.sac.updates_per_decision)
    environments = config.env.workers * config.env.envs_per_worker * config.rollouts.actors
    return ceil(config.ppo.steps / (config.ppo.rollout * environments))


def _check_demonstrations(suite: Suite, tasks: TaskLists, config: Config) -> None:
    """Raise `UserError` unless there is somebody, or a dataset that fits, to learn from."""
    if not config.expert.dataset:
        if not suite.scripted_expert:
            raise UserError(
                f"{config.suite} has no scripted expert: name a LeRobotDataset of demonstrations "
                "as --expert.dataset (`irevla data PATH` shows what is in one)"
            )
        return
    named(config.expert.dataset)
    open_demonstrations(suite, tasks.expert, config.expert, env=config.env)


def _check_real_arm(suite: Suite, config: Config) -> None:
    """Where acting takes a person, nothing acts but the policies, and stage 1 must know who acted.

    So there is no scripted expert, no blind replay, no film.
    """
    assert suite.real_arm is not None
    if not config.expert.dataset:
        raise UserError(
            f"{config.suite} has no scripted expert: let people demonstrate "
            f"(`irevla collect {config.suite}`), and name what they recorded as --expert.dataset"
        )
    method = METHODS[config.method]
    learns = method.rl != "none"
    if method.harvest and not learns and method.sl != "none":
        raise UserError(f"method {config.method} is for simulators: a person's time is too dear")
    if suite.real_arm.dry_run():
        raise UserError(
            "the arm's settings say dry_run: true, where nothing moves, so nothing can be learnt: "
            "set it to false (`irevla eval` plays dry episodes)"
        )
    only = suite.real_arm.only_policy()
    if (learns or method.sl != "none") and only:
        raise UserError(
            f"the arm's settings name one policy ({only[:16]}), and a run makes others: "
            "take `policy` out of the settings"
        )
    if learns and config.rl != "sac":
        raise UserError(
            f"--rl sac on {config.suite}: PPO would take what a person does there for its own "
            "action"
        )
    if config.eval.videos:
        raise UserError(f"there are no videos of {config.suite}: --eval.no-videos")


def _starting_model(config: Config, suite: Suite) -> ModelConfig:
    """Return the model that the run starts from, once it is known to fit the suite."""
    if config.from_checkpoint:
        saved = parse(read_policy(locate(config.from_checkpoint)))
        check_fits(
            saved,
            suite=suite.name,
            action_dim=suite.action_dim,
            image_size=config.env.image_size,
            state_dim=suite.state_dim(config.env),
            cameras=config.env.cameras,
            path=config.from_checkpoint,
        )
        if saved.model.chunk != config.model.chunk:
            raise UserError(
                f"{config.from_checkpoint} gives {saved.model.chunk} actions at once, and "
                f"model.chunk is {config.model.chunk}: --model.chunk {saved.model.chunk}, or "
                "choose another policy"
            )
        if saved.model.action_scale != config.model.action_scale:
            raise UserError(
                f"the actions of {config.from_checkpoint} are scaled by "
                f"{saved.model.action_scale}, and model.action_scale is "
                f"{config.model.action_scale}: --model.action-scale {saved.model.action_scale}"
            )
        return saved.model
    if config.model.vlm in VLMS:  # a small one is made at once, or says why not
        VLMS[config.model.vlm](config.model, config.env.image_size)
    return config.model
