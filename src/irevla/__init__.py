"""irevla: improve a vision-language-action policy by trial and error, and keep what it knew.

import irevla

config = irevla.preset("pointmass", seed=1)
policy = irevla.run(config, out="runs/toy")  # Algorithm 1; again: resumes
print(irevla.evaluate(policy, "pointmass", tasks=["left-disc-new"], episodes=50))
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from irevla.config import Config
    from irevla.evaluation.stats import Row
    from irevla.models.policy import VLAPolicy as VLAPolicy

__all__ = ["VLAPolicy", "evaluate", "preset", "run"]
__version__ = "0.2.0"


def preset(name: str, **changes: Any) -> "Config":
    """Return the settings of a preset, with other values for some fields: `preset("kitchen",
    seed=1)`.

    A group of settings is changed with `dataclasses.replace`. Raises `UserError` for an unknown
    preset or field, and for a value that cannot be.
    """
    from irevla.config_io import check_names
    from irevla.presets import find_preset

    config = find_preset(name)
    check_names(config, changes)
    return replace(config, **changes)


def run(config: "Config", *, out: Path | str, tensorboard: bool = False) -> "VLAPolicy":
    """Run Algorithm 1 in the directory `out` and return the policy; the same call again resumes.

    It leaves out/results.json, out/report.html (with the extra "report") and all checkpoints.
    Raises `UserError` for whatever a user can mend.
    """
    from irevla.algorithm import run_algorithm
    from irevla.progress import console
    from irevla.runs.run import is_finished, open_run
    from irevla.stages.preflight import preflight, say_what_surprises
    from irevla.stages.start import finished_policy

    if not is_finished(Path(out)):
        preflight(config)  # before there is a directory that would have to be given another name
    with open_run(Path(out), config, tensorboard=tensorboard) as opened:
        if not is_finished(Path(out)):
            say_what_surprises(config)
        policy = finished_policy(opened) or run_algorithm(opened)
        opened.finish()  # what the journal knows, before the page
        if all(find_spec(package) for package in ("jinja2", "matplotlib")):
            from irevla.evaluation.report import write_report

            write_report(Path(out))
        else:
            message = f"no report.html: pip install 'irevla[report]', then irevla report {out}"
            console.print(message, soft_wrap=True)
    return policy


def evaluate(
    policy: "VLAPolicy | Path | str",
    suite: str,
    *,
    tasks: "list[str] | tuple[str, ...]",
    episodes: int = 50,
    seed: int = 0,
) -> "list[Row]":
    """Return the success rates of a policy, one row a task, on evaluation seeds of block `seed`.

    `policy` is one in memory, or whatever `VLAPolicy.from_pretrained` takes. The environments have
    the settings of the preset with the suite's name, where there is one. Raises `UserError` where
    policy and suite do not fit.
    """
    from irevla.evaluation.saved import evaluate_on

    return evaluate_on(policy, suite, tasks=tuple(tasks), episodes=episodes, seed=seed)


def __getattr__(name: str) -> Any:
    """Import the policy class when it is first asked for: it needs torch, and `--help` does not."""
    if name == "VLAPolicy":
        from irevla.models.policy import VLAPolicy

        return VLAPolicy
    raise AttributeError(f"module 'irevla' has no attribute {name!r}")
