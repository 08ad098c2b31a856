"""A policy on its way out: its files, its run's settings, and a card with its success table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from irevla import config_io
from irevla.config import Config
from irevla.errors import UserError
from irevla.evaluation.report import acting, code, describe
from irevla.evaluation.stats import Results, read_results
from irevla.evaluation.tables import markdown
from irevla.models.files import CARD, CONFIG, read_policy
from irevla.models.hub import locate, model_card
from irevla.runs.run import read_config
from irevla.storage.read import read_text
from irevla.tasks import BASELINE, Stage

SETTINGS = ("suite", "expert_tasks", "rl_tasks", "unseen_tasks", "method", "seed", "env")
"""What of a run's settings goes with its policy.

Enough to evaluate it elsewhere, and nothing that names files.
"""


def export(path: Path | str, *, name: str) -> tuple[dict[str, Any], str]:
    """Return the files of the policy in `path`, and its model card under `name`.

    `path` is a run, a checkpoint or a saved policy. A run's success table is that of the stage that
    made this policy. What was exported before keeps its card, which a person may have edited.
    Raises `UserError` where there is no policy.
    """
    place = locate(path)
    files = read_policy(place)
    run = run_of(place)
    if run is None:
        written = place / CARD
        if written.is_symlink():
            raise UserError(f"{written} is a link, which would publish another file: copy it here")
        if written.exists():
            return files, read_text(written)
        return files, model_card(files[CONFIG], name=name)
    settings = config_io.to_dict(read_config(run))
    files[CONFIG] |= {"run": {key: settings[key] for key in SETTINGS}}
    return files, model_card(files[CONFIG], name=name, results=_results(run, place.name))


def run_of(place: Path) -> Path | None:
    """Return the run whose checkpoint `place` is; None for a policy that stands alone."""
    folder = place.absolute().parent
    run = folder.parent
    is_checkpoint = folder.name == "checkpoints" and (run / "config.yaml").is_file()
    return run if is_checkpoint else None


def exported_settings(place: Path) -> Config | None:
    """Return the settings that an exported policy carries; None where it carries none."""
    carried = read_policy(place)[CONFIG].get("run")
    return config_io.read_config(carried) if carried else None


def _results(run: Path, checkpoint: str) -> str:
    """Return the success table of the stage that ended with `checkpoint`, in Markdown.

    Empty where that was not evaluated.
    """
    if not (run / "results.json").exists():
        return ""
    results = read_results(run / "results.json")
    for stage in results.stages:
        if stage.folder == checkpoint:
            return success_table(until(results, stage))
    return ""


def until(results: Results, stage: Stage) -> Results:
    """Return what had been measured when `stage` was over, the baselines included."""
    measured = results.stages[: results.stages.index(stage) + 1]
    kept = [each.name for each in (BASELINE, *measured)]
    return replace(results, rows=tuple(row for row in results.rows if row.stage in kept))


def success_table(results: Results) -> str:
    """Return the card's section on what the policy of the last stage can do (Markdown)."""
    config = results.settings
    env = config["env"]
    method = config["method"]
    seeds = ", ".join(map(str, results.seeds))
    said = [
        f"After {results.stages[-1].title}. Suite `{config['suite']}`: images of "
        f"{env['image_size']} pixels, {env['action_repeat']} simulator steps per decision, at most "
        f"{env['horizon']} decisions per episode.",
        f"Method `{method}`{describe(method)}. Seed of the training run: {seeds}; the intervals "
        "cover the luck of the evaluation episodes, not that of another training run.",
        f"{acting(results)}. The seeds are those of block {config['eval']['seed']} of the "
        "evaluation seeds, which training never uses. Blind replay plays back the actions of "
        "demonstrations without looking: where it does as well, success says nothing about seeing.",
        f"{code(results.git)}.",
    ]
    bullets = "\n".join(f"- {text}" for text in said)
    return "\n\n".join(["## Success rates", bullets, markdown(results)])
