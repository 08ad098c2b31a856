"""The quickstart with stage 2 elsewhere, once as Algorithm 1 has it and once with
`compute.pipeline`: wall clock and success. One JSON object a line, into FILE.

    python scripts/measure_pipeline.py FILE --seeds 0 1

Both ways compute stage 2 by torchrun on this machine, in one process, from the same stage 0.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from irevla.algorithm import run_algorithm
from irevla.config import ComputeConfig, Config
from irevla.evaluation.stats import read_results
from irevla.presets import find_preset
from irevla.runs.run import open_run
from irevla.storage.provenance import git_commit, machine


def settings(seed: int, *, pipeline: bool, place: Path) -> Config:
    """Return the quickstart's, with stage 2 elsewhere."""
    preset = find_preset("quickstart")
    compute = ComputeConfig(stage2="torchrun", pipeline=pipeline, share=str(place / "share"))
    return replace(
        preset, seed=seed, compute=compute, eval=replace(preset.eval, interim=0, videos=False)
    )


def measure(folder: Path, config: Config) -> dict[str, Any]:
    """Run it; return the seconds and what succeeded in the end, of each category."""
    start = time.monotonic()
    with open_run(folder, config) as run:
        run_algorithm(run)
        run.write_results()
    seconds = time.monotonic() - start
    rows = read_results(folder / "results.json").rows
    last = [row for row in rows if row.stage == rows[-1].stage]
    rates: dict[str, list[float]] = {}
    for row in last:
        rates.setdefault(str(row.category), []).append(row.successes / row.episodes)
    return {"seconds": seconds, **{name: sum(all_) / len(all_) for name, all_ in rates.items()}}


def rows(root: Path, seeds: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Yield one row for each seed and way."""
    about = {"git": git_commit(), "machine": machine()}
    for seed in seeds:
        for pipeline in (False, True):
            name = f"seed-{seed}-{'pipeline' if pipeline else 'strict'}"
            config = settings(seed, pipeline=pipeline, place=root / name)
            found = measure(root / name / "run", config)
            way = {"seed": seed, "pipeline": pipeline, "load": os.getloadavg()[0]}
            yield {**way, **found, **about}


def main(
    file: tyro.conf.Positional[Path],
    root: Path = Path("runs/pipeline"),
    seeds: tuple[int, ...] = (0,),
) -> None:
    """Measure both ways into FILE; the runs are kept under `root`, and must be new."""
    with file.open("w") as out:
        for row in rows(root, seeds):
            out.write(json.dumps(row) + "\n")
            out.flush()
            print({name: row[name] for name in row if name not in ("git", "machine")})


if __name__ == "__main__":
    tyro.cli(main)
