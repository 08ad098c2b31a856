"""A policy on its way out: its files, the settings of its run, and a model card with its success
table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from irevla.config import Config
from irevla.evaluation.report import describe
from irevla.evaluation.stats import BASELINE, Results, read_results
from irevla.evaluation.tables import markdown, stage_title
from irevla.models.files import CARD, CONFIG, read_policy
from irevla.models.hub import locate, model_card
from irevla.presets import from_dict, to_dict
from irevla.runs.run import read_config
from irevla.runs.stage import folder

SETTINGS = ("suite", "expert_tasks", "rl_tasks", "unseen_tasks", "method", "seed", "env")
"""What of a run's settings goes with its policy: enough to evaluate it elsewhere, and nothing that
names files."""


def export(path: Path | str, *, name: str) -> tuple[dict[str, Any], str]:
    """The files of the policy in `path` (a run, a checkpoint, a saved policy) and its model card,
    under `name`.

    A run's success table is that of the stage that made this policy. What was exported before keeps
    its card, which a person may have edited. Raises `UserError` where there is no policy.
    """
    place = locate(path)
    files, run = read_policy(place), run_of(place)
    if run is None:
        written = place / CARD
        return files, written.read_text() if written.exists() else model_card(
            files[CONFIG], name=name
        )
    settings = to_dict(read_config(run))
    files[CONFIG] |= {"run": {key: settings[key] for key in SETTINGS}}
    return files, model_card(files[CONFIG], name=name, results=_results(run, place.name))


def run_of(place: Path) -> Path | None:
    """The run whose checkpoint `place` is; None for a policy that stands alone."""
    run = place.absolute().parent.parent
    return (
        run
        if place.absolute().parent.name == "checkpoints" and (run / "config.yaml").is_file()
        else None
    )


def exported_settings(place: Path) -> Config | None:
    """The settings that an exported policy carries; None where it carries none."""
    carried = read_policy(place)[CONFIG].get("run")
    config: Config | None = from_dict(carried) if carried else None
    return config


def _results(run: Path, checkpoint: str) -> str:
    """The success table of the stage that ended with `checkpoint`, in Markdown; empty where that
    was not evaluated."""
    if not (run / "results.json").exists():
        return ""
    results = read_results(run / "results.json")
    stage = next((stage for stage in results.stages if folder(stage) == checkpoint), None)
    return success_table(until(results, stage)) if stage else ""


def until(results: Results, stage: str) -> Results:
    """What had been measured when `stage` was over, the baselines included."""
    kept = (BASELINE, *results.stages[: results.stages.index(stage) + 1])
    return replace(results, rows=tuple(row for row in results.rows if row.stage in kept))


def success_table(results: Results) -> str:
    """The model card's section on what the policy of the last stage in `results` can do
    (Markdown)."""
    config = results.config
    env, method = config["env"], config["method"]
    said = [
        f"After {stage_title(results.stages[-1])}. Suite `{config['suite']}`: pictures of {env['image_size']} pixels, "
        f"{env['action_repeat']} simulator steps per decision, at most {env['horizon']} decisions per episode.",
        f"Method `{method}`{describe(method)}. Seed of the training run: {', '.join(map(str, results.seeds))}; the "
        "intervals cover the luck of the evaluation episodes, not that of another training run.",
        f"Evaluated without exploration, on block {config['eval']['seed']} of the evaluation seeds, which training "
        "never uses. Blind replay plays back the actions of demonstrations without looking: where it does as well, "
        "success says nothing about seeing.",
        f"Code: irevla, commit `{results.git}`." if results.git else "Code: an installed irevla.",
    ]
    return "\n\n".join(
        ["## Success rates", "\n".join(f"- {text}" for text in said), markdown(results)]
    )
