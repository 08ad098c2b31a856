"""The report of a run: one HTML page that needs nothing else, drawn from the run directory's files
alone."""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from irevla.category import Category
from irevla.config import METHODS
from irevla.errors import UserError
from irevla.evaluation.stats import (
    BASELINE,
    FIRST,
    Change,
    Line,
    Results,
    change,
    hundredths,
    read_results,
)
from irevla.evaluation.tables import TITLES, dropped, stage_title
from irevla.runs.journal import read_lines
from irevla.runs.metrics import read_metrics

CAPTIONS = {
    "categories": (
        "Success by category, after every stage",
        "All episodes of a category pooled; whiskers are 95% Wilson intervals. The dotted line is a policy that "
        "sees nothing and replays demonstrations.",
    ),
    "learning": (
        "Reinforcement learning, task by task",
        "Success of the training episodes, which explore, against decisions taken in the environment; diamonds are the "
        "policy without exploration noise on evaluation seeds. While the critic warms up the policy does not move.",
    ),
    "forgetting": (
        "What was kept, and what was forgotten",
        "Success rate of each task (rows) after each stage (columns). An orange frame marks a task's own training; "
        "▼ is a drop, beyond noise, from there (or from SFT, for tasks that RL has not trained yet).",
    ),
    "losses": (
        "Supervised learning",
        "Mean squared error of the actions, on training batches (augmented) and on held-out episodes (not augmented).",
    ),
}


@dataclass(frozen=True)
class Clip:
    """One video of the page."""

    task: str
    category: str
    success: bool
    seed: int
    stage: str
    mp4: str  # base64


def write_report(run_dir: Path) -> Path:
    """Write `run_dir`/report.html and the PNGs in `run_dir`/plots from what there is so far;
    returns the page.

    Raises `UserError` where results.json is missing or damaged, or where the packages of
    'irevla[report]' are.
    """
    results = read_results(run_dir / "results.json")
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise UserError("a report needs jinja2: pip install 'irevla[report]'") from error
    from irevla.evaluation.plots import DPI, draw_all

    videos, remarks = list(clips(run_dir, results)), list(notes(run_dir, results))
    plots = draw_all(results, read_metrics(run_dir / "metrics.jsonl"), run_dir / "plots")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("irevla.evaluation"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": percent,
        "span": span,
        "signed": signed,
        "stage": stage_title,
        "verdict": verdict,
    }
    page = environment.get_template("report.html").render(
        name=run_dir.resolve().name,
        results=results,
        headline=headline(results),
        method=describe(results.config["method"]),
        lines=results.lines(),
        titles=TITLES,
        after=stage_title(results.last) if results.last else None,
        expert=results.count(BASELINE, method="expert") is not None,
        dropped=dropped,
        captions=CAPTIONS,
        plots={name: _picture(themes, dpi=DPI) for name, themes in plots.items()},
        clips=videos,
        settings=_settings(run_dir, results),
        notes=remarks,
    )
    path = run_dir / "report.html"
    path.with_name(".report.html").write_text(page)
    path.with_name(".report.html").replace(path)
    return path


def headline(results: Results) -> str:
    """The result in one sentence: "RL tasks rose from 24% to 71%; expert tasks went from 88% to
    90%, within noise."."""
    lines = [
        results.line(category)
        for category in (Category.RL, Category.EXPERT, Category.UNSEEN)
        if results.tasks(category)
    ]
    parts = [part for line in lines if (part := _clause(line))]
    if not parts:
        return "Nothing has been evaluated yet."
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _clause(line: Line) -> str | None:
    name = (
        TITLES[line.category][0].lower() + TITLES[line.category][1:]
        if line.category != Category.RL
        else "RL tasks"
    )
    if line.before is None:
        return None
    if line.after is None or line.change is None:
        return f"{name} start at {percent(line.before.rate)}"
    verb, tail = {"≈": ("went", ", within noise"), "▲": ("rose", ""), "▼": ("fell", "")}[
        verdict(line.change)
    ]
    return f"{name} {verb} from {percent(line.before.rate)} to {percent(line.after.rate)}{tail}"


def verdict(what: Change) -> str:
    """A change as a sign: better, worse, or within noise."""
    if what.noise:
        return "≈"
    return "▲" if what.difference > 0 else "▼"


def percent(rate: float) -> str:
    """A rate as text: "82%"."""
    return f"{hundredths(rate)}%"


def span(ci95: tuple[float, float]) -> str:
    """An interval of rates as text: "69–90%"."""
    return f"{hundredths(ci95[0])}–{hundredths(ci95[1])}%"


def signed(difference: float) -> str:
    """A difference of rates in percentage points: "+46", "−3", "0"."""
    points = hundredths(difference)
    return f"{points:+d}".replace("-", "−") if points else "0"


def describe(method: str) -> str:
    """What a method does, in words: "supervised learning on expert demonstrations, then, for each
    RL task, ..."."""
    if method not in METHODS:
        return ""
    what, part = (
        METHODS[method],
        {"head": "the action head, with the VLM frozen", "all": "the whole model"},
    )
    stages = ["supervised learning on expert demonstrations"] if what.sft else []
    if what.rl != "none":
        stages.append(f"for each RL task, reinforcement learning of {part[what.rl]}")
    if what.sl != "none":
        stages.append(
            f"supervised learning of {part[what.sl]} on expert data and on the successes of RL"
        )
    return f": {', then '.join(stages)}"


def notes(run_dir: Path, results: Results) -> Iterator[str]:
    """What a reader should know before believing the numbers."""
    if results.last is None:
        yield "This run is not finished: nothing has been evaluated after stage 0 yet."
    if len(results.seeds) == 1:
        yield "One seed: the intervals cover the luck of the evaluation episodes, not that of another training run."
    blind = [task for task in results.tasks() if _blind_suffices(results, task)]
    if blind:
        yield (
            "A blind replay of demonstrations does as well as the policy, within noise, on "
            f"{', '.join(blind)}: a success there says nothing about seeing."
        )
    for record in read_lines(run_dir / "journal.jsonl"):
        if record.get("dropped"):
            yield f"{record['dropped']} episodes were dropped because an environment worker died ({record['event']})."
        if record.get("note"):
            yield f"{record['note']} ({record['event']})."


def _blind_suffices(results: Results, task: str) -> bool:
    blind = results.count(BASELINE, task=task, method="blind-replay")
    policy = results.count(results.last or FIRST, task=task)
    gain = change(blind, policy)
    return (
        blind is not None
        and blind.successes > 0
        and gain is not None
        and (gain.difference <= 0 or gain.noise)
    )


def clips(run_dir: Path, results: Results) -> Iterator[Clip]:
    """The videos that videos/index.json lists, those of RL tasks first, then expert and unseen
    ones."""
    index = run_dir / "videos" / "index.json"
    if not index.exists():
        return
    try:
        listed: Mapping[str, Any] = json.loads(index.read_text())
    except ValueError as error:
        raise UserError(
            f"{index} is damaged; delete it to write the report without videos"
        ) from error
    order = [
        (task, category)
        for category in (Category.RL, Category.EXPERT, Category.UNSEEN)
        for task in results.tasks(category)
    ]
    known = dict(order)
    for task in sorted(
        listed, key=lambda name: list(known).index(name) if name in known else len(known)
    ):
        path = run_dir / "videos" / f"{task}.mp4"
        if path.exists():
            clip = listed[task]
            category = TITLES[known[task]].removesuffix("s") if task in known else ""
            yield Clip(
                task,
                category,
                clip["success"],
                clip["seed"],
                stage_title(clip["stage"]),
                _base64(path),
            )


def _settings(run_dir: Path, results: Results) -> str:
    path = run_dir / "config.yaml"
    return (
        path.read_text() if path.exists() else yaml.safe_dump(dict(results.config), sort_keys=False)
    )


def _picture(themes: Mapping[str, Path], *, dpi: int) -> dict[str, str | int]:
    """Both PNGs, and the width in CSS pixels at which their letters are as large as the page's."""
    width = int.from_bytes(themes["light"].read_bytes()[16:20], "big")  # the PNG header has it
    return {
        "width": round(width * 96 / dpi),
        **{theme: _base64(path) for theme, path in themes.items()},
    }


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
