"""What a run measures between its stages, each once, and the films of its last evaluation."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from irevla.compute.device import threads
from irevla.data.episodes import ExpertDataset
from irevla.envs.suite import Suite
from irevla.evaluation.evaluate import (
    Evaluation,
    Played,
    Protocol,
    evaluate_blind_replay,
    evaluate_policy,
)
from irevla.evaluation.video import film, write_video
from irevla.models.policy import VLAPolicy
from irevla.progress import bar
from irevla.rollout.demonstrations import recorded_demonstrations, replayed_demonstrations
from irevla.runs.run import Run
from irevla.storage.disk import writing
from irevla.storage.provenance import git_commit
from irevla.storage.read import read_json, shaped
from irevla.tasks import BASELINE, Purpose, Stage, TaskLists, first_seed

FILMED = "filmed.json"  # in DIR/videos: what was done in the first episode of each task


def baselines(run: Run, suite: Suite, tasks: TaskLists, expert: ExpertDataset) -> None:
    """Measure what success is worth: the blind replay of demonstrations, on the evaluation seeds.

    They are the scripted expert's, or without one those of D_e. Not where a person would have to
    watch it.
    """
    if suite.real_arm is not None or _done(run, BASELINE):
        return
    config = run.config
    if suite.scripted_expert:
        played = replayed_demonstrations(suite, tasks.all, env=config.env, seed=config.seed)
        found = {task: [outcome.actions for outcome in played[task]] for task in played}
        reason = "the scripted expert did not succeed once"
    else:
        found = recorded_demonstrations(suite, tasks.all, expert)
        reason = "the demonstrations have no episode with its instruction"
    lacking = [task for task in tasks.all if task not in found]
    if lacking:
        run.journal.append(
            "blind replay",
            note=f"no blind replay of {', '.join(lacking)}: {reason}",
        )
    if found:
        protocol = Protocol(suite, tuple(found), config.env, config.eval.episodes, config.eval.seed)
        evaluation = evaluate_blind_replay(found, protocol, run_seed=config.seed)
        _note(run, BASELINE, evaluation)
    else:
        run.journal.append(f"evaluated {BASELINE.name}", rows=[])


def evaluate_stage(
    run: Run,
    policy: VLAPolicy,
    suite: Suite,
    tasks: TaskLists,
    stage: Stage,
    *,
    interim: bool = False,
) -> None:
    """Measure the success rates of all tasks after `stage`, once.

    An `interim` evaluation has fewer episodes, and none where `eval.interim` is 0.
    """
    episodes = run.config.eval.interim if interim else run.config.eval.episodes
    if not episodes or _done(run, stage):
        return
    if suite.real_arm is not None:  # a person's time: each episode is kept when it is done
        rows = [
            row for task in tasks.all for row in _once(run, policy, suite, task, stage, episodes)
        ]
        _note_rows(run, stage, rows)
        return
    evaluation = _evaluate(run, policy, suite, tasks.all, stage, episodes)
    _note_films(run, stage, evaluation)
    _note(run, stage, evaluation)


def videos(run: Run, policy: VLAPolicy, suite: Suite, tasks: TaskLists) -> None:
    """Film the first episode of every task in the last evaluation, to the bit: DIR/videos/TASK.mp4.

    index.json says of each what it shows.
    """
    config = run.config
    if not config.eval.videos or run.journal.done("videos") is not None:
        return
    stage, actions = _read_films(run)
    seed = first_seed(Purpose.EVALUATION, config.eval.seed)
    index = {}
    fps = max(1, round(suite.rate(config.env)))
    with bar("Videos", len(tasks.all)) as advance:
        for task in tasks.all:
            frames, success = film(suite, task, actions[task], env=config.env, seed=seed)
            write_video(run.directory / "videos" / f"{task}.mp4", frames, fps=fps)
            index[task] = {"success": success, "seed": seed, "stage": stage.name}
            advance(len(index), task)
    with writing(run.directory / "videos" / "index.json") as aside:
        aside.write_text(json.dumps(index, indent=1))
    run.journal.append("videos")


def _done(run: Run, stage: Stage) -> bool:
    return run.journal.done(f"evaluated {stage.name}") is not None


def _evaluate(
    run: Run,
    policy: VLAPolicy,
    suite: Suite,
    tasks: tuple[str, ...],
    stage: Stage,
    episodes: int,
    **kept: Any,
) -> Evaluation:
    config = run.config
    protocol = Protocol(
        suite, tasks, config.env, episodes, config.eval.seed, rollouts=config.rollouts
    )
    with threads(1):
        return evaluate_policy(
            policy, protocol, method=config.method, stage=stage.name, run_seed=config.seed, **kept
        )


def _once(
    run: Run, policy: VLAPolicy, suite: Suite, task: str, stage: Stage, episodes: int
) -> list[dict[str, Any]]:
    """Return the row of one task after `stage`: from the journal where it is known, as are the
    episodes of one that was interrupted."""
    event = f"tested {task}, {stage.name}"
    record = run.journal.done(event)
    if record is None:
        episode = f"played {task}, {stage.name}"
        played = [Played(**each["episode"]) for each in run.journal if each["event"] == episode]
        evaluation = _evaluate(
            run,
            policy,
            suite,
            (task,),
            stage,
            episodes,
            known=played,
            keep=lambda now: run.journal.append(episode, episode=asdict(now)),
        )
        rows = [row.to_json() for row in evaluation.rows]
        run.journal.append(event, rows=rows)
        return rows
    known: list[dict[str, Any]] = record["rows"]
    return known


def _note(run: Run, stage: Stage, evaluation: Evaluation) -> None:
    _note_rows(run, stage, [row.to_json() for row in evaluation.rows], **evaluation.lost)


def _note_rows(run: Run, stage: Stage, rows: list[dict[str, Any]], **note: Any) -> None:
    """Write down what was measured, and of which code; results.json follows."""
    run.journal.append(f"evaluated {stage.name}", rows=rows, git=git_commit(), **note)
    run.write_results()


def _note_films(run: Run, stage: Stage, evaluation: Evaluation) -> None:
    """Keep what was done in the first episode of each task: a film plays it again."""
    folder = run.directory / "videos"
    folder.mkdir(exist_ok=True)
    actions = {task: taken.tolist() for task, taken in evaluation.first_actions.items()}
    with writing(folder / FILMED) as aside:
        aside.write_text(json.dumps({"stage": stage.name, "actions": actions}))


def _read_films(run: Run) -> tuple[Stage, dict[str, np.ndarray]]:
    path = run.directory / "videos" / FILMED
    remedy = "there is nothing to film without it: --eval.no-videos with another --out"
    kept = read_json(path, remedy=remedy)
    with shaped(path, remedy=remedy):
        actions = {task: np.array(a, np.float32) for task, a in kept["actions"].items()}
        return Stage.parse(kept["stage"]), actions
