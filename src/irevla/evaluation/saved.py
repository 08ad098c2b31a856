"""Success rates of a policy on its own: a run's newest, a checkpoint, or one that was shared."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from irevla.compute.device import find_device, threads
from irevla.config import Config, RolloutsConfig
from irevla.envs.suite import load_suite, suite_of_file
from irevla.errors import UserError
from irevla.evaluation.evaluate import Played, Protocol, evaluate_policy, rows_of
from irevla.evaluation.model_card import exported_settings, run_of
from irevla.evaluation.stats import Row, role
from irevla.models.files import CONFIG, check_fits
from irevla.models.hub import locate
from irevla.models.policy import VLAPolicy
from irevla.presets import PRESETS
from irevla.rollout.fleet import check_rollouts
from irevla.runs.run import read_config


class Interrupted(KeyboardInterrupt):
    """A person has left an evaluation on a real arm; `rows` are of what was played until then."""

    def __init__(self, rows: list[Row]) -> None:
        super().__init__()
        self.rows = rows


class Unfinished(UserError):
    """An evaluation on a real arm cannot go on; `rows` are of what was played until then."""

    def __init__(self, reason: str, rows: list[Row]) -> None:
        super().__init__(reason)
        self.rows = rows


def evaluate_saved(
    path: Path,
    tasks: Sequence[str],
    *,
    episodes: int,
    seed: int,
    suite: str = "",
    words: str = "right",
    execute: int = 0,
    rollouts: RolloutsConfig | None = None,
) -> list[Row]:
    """Return the success rates of the policy in `path`, with the environment settings of its run.

    Of the actions that it gives at once it executes as many as it was trained to, or `execute`.
    Who plays, and where its VLM is, `rollouts` says; without, all is here.
    `path` is a run (its newest policy), a checkpoint, an exported folder, or "owner/name" on the
    Hub. On the suite of its run, or on another one; told `words` (see `WORDS`). Raises `UserError`
    where they do not fit, `Interrupted` where a person leaves an arm, `Unfinished` where it cannot
    go on.
    """
    place, config = _find(path, suite)
    found = load_suite(suite) if suite else suite_of_file(config.suite, path)
    config = replace(config, suite=found.source)
    found.check()
    chosen = found.several(tasks) or found.task_lists(config).all
    policy = VLAPolicy.from_pretrained(place, device=find_device(config.device))
    policy.set_execute(execute or policy.execute)
    env = replace(config.env, state=policy.state_dim > 0, cameras=policy.cameras)
    found.check_senses(env)
    check_fits(
        policy,
        suite=found.name,
        action_dim=found.action_dim,
        image_size=env.image_size,
        state_dim=found.state_dim(env),
        cameras=env.cameras,
        path=str(path),
    )
    playing = Config(env=env, rollouts=rollouts or RolloutsConfig())
    check_rollouts(found, playing, execute=policy.execute)
    protocol = Protocol(found, chosen, env, episodes, seed, words, playing.rollouts)
    method = config.method + ("" if words == "right" else f", {words} words")
    named: Any = {"method": method, "stage": path.absolute().name, "run_seed": config.seed}
    own = Config() if suite else config  # elsewhere its tasks are the suite's
    played: list[Played] = []
    try:
        with threads(1):
            rows = evaluate_policy(policy, protocol, **named, keep=played.append).rows
        return _as_in_run(rows, own)
    except (KeyboardInterrupt, UserError) as error:
        if found.real_arm is None or not played:
            raise
        rows = rows_of(played, protocol, **named, chunk=policy.chunk, execute=policy.execute)
        rows = _as_in_run(rows, own)
        if isinstance(error, UserError):
            raise Unfinished(str(error), rows) from error
        raise Interrupted(rows) from error


def _as_in_run(rows: Sequence[Row], config: Config) -> list[Row]:
    """Return rows with each task as what it was to the policy, whatever it is in its suite."""
    return [replace(row, category=role(row, vars(config))) for row in rows]


def evaluate_on(
    policy: VLAPolicy | Path | str,
    suite: str,
    *,
    tasks: tuple[str, ...],
    episodes: int,
    seed: int,
) -> list[Row]:
    """Return the success rates of a policy on some tasks of a suite, one row a task.

    The environments have the settings of the preset with the suite's name, where there is one, and
    images of the policy's size. Raises `UserError` where policy and suite do not fit.
    """
    found = load_suite(suite)
    found.check()
    chosen = found.several(tasks)
    config = _usual(suite)
    if not isinstance(policy, VLAPolicy):
        policy = VLAPolicy.from_pretrained(policy, device=find_device(config.device))
    env = replace(
        config.env,
        image_size=policy.image_size,
        state=policy.state_dim > 0,
        cameras=policy.cameras,
    )
    found.check_senses(env)
    check_fits(
        policy,
        suite=found.name,
        action_dim=found.action_dim,
        image_size=env.image_size,
        state_dim=found.state_dim(env),
        cameras=env.cameras,
        path="the policy",
    )
    protocol = Protocol(found, chosen, env, episodes, seed)
    with threads(1):
        return evaluate_policy(policy, protocol, method="policy", stage="policy").rows


def _usual(suite: str) -> Config:
    """Return the settings of the preset with the suite's name, where there is one."""
    return PRESETS[suite][1] if suite in PRESETS else Config(suite=suite)


def _find(path: Path, suite: str) -> tuple[Path, Config]:
    """Return the folder of the policy in `path`, and where it acts: as it, or its run, says.

    One that says nothing acts as is usual on `suite`, if one is named.
    """
    if (path / "config.yaml").is_file() and not (path / CONFIG).is_file():
        config = _settings_of_run(path)
        return locate(path), config
    place = locate(path)
    carried = exported_settings(place)
    if carried is not None:
        return place, carried
    run = run_of(place)
    if run is None:
        if suite:
            return place, _usual(suite)
        raise UserError(
            f"{path} does not say where it acts: name its --suite, or a run, a checkpoint in one, "
            "or what push has written"
        )
    return place, _settings_of_run(run)


def _settings_of_run(run: Path) -> Config:
    try:
        return read_config(run)
    except UserError as error:
        reason = str(error).removeprefix(f"{run / 'config.yaml'}: ")
        reason = reason.partition(";")[0]  # without its remedy, for who wrote the file by hand
        raise UserError(
            f"{run} is no run of Algorithm 1 that can be read here ({reason}): name one, or what "
            "push has written"
        ) from error
