"""The report of a run: one HTML page that needs nothing else, from the run's files alone."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from irevla.config import METHODS
from irevla.evaluation.pages import environment
from irevla.evaluation.practice import per_hour, robot_hours
from irevla.evaluation.stats import Change, Line, Results, change, hundredths, read_results
from irevla.evaluation.tables import POOLED, TITLES, chunks, dropped, practised, transfer
from irevla.storage.disk import writing
from irevla.storage.journal import read_lines
from irevla.storage.metrics import read_metrics
from irevla.storage.provenance import is_clean
from irevla.storage.read import mapping, read_json, read_text, shaped
from irevla.tasks import BASELINE, SFT, Category, Stage

CAPTIONS = {
    "categories": (
        "Success by category, after every stage",
        f"{POOLED} Whiskers are 95% Wilson intervals. The dotted line is a policy that sees "
        "nothing and replays demonstrations.",
    ),
    "learning": (
        "Reinforcement learning, task by task",
        "Success of the training episodes, which explore, against decisions taken in the "
        "environment; diamonds are evaluations, without exploration noise, on evaluation seeds. "
        "While the critic warms up the policy does not move.",
    ),
    "interventions": (
        "A person's help in training",
        "How often a person took over in an episode, and for how many decisions, smoothed: both "
        "should fall.",
    ),
    "forgetting": (
        "What was kept, and what was forgotten",
        "Success rate of each task (rows) after each stage (columns). An orange frame marks a "
        "task's own training; ▼ is a drop, beyond noise, from there (or from SFT, for tasks that "
        "RL has not trained yet).",
    ),
    "losses": (
        "Supervised learning",
        "Mean squared error of the actions, on training batches (augmented) and on held-out "
        "episodes (not augmented).",
    ),
}
TRAINED = {"head": "the action head, with the VLM frozen", "all": "the whole model"}
ORDER = (
    Category.RL,
    Category.EXPERT,
    Category.UNSEEN,
    Category.TEST,
)  # what a reader wants to know first


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
    """Write `run_dir`/report.html and the PNGs in `run_dir`/plots from what there is so far.

    Returns the page. Raises `UserError` where results.json is missing or damaged, or where the
    packages of 'irevla[report]' are missing.
    """
    results = read_results(run_dir / "results.json")
    pages = environment()
    from irevla.evaluation.plots import DPI, draw_all

    pages.filters |= {"percent": percent, "span": span, "signed": signed, "verdict": verdict}
    videos = list(clips(run_dir, results))
    remarks = list(notes(run_dir, results))
    plots = draw_all(results, read_metrics(run_dir / "metrics.jsonl"), run_dir / "plots")
    page = pages.get_template("report.html").render(
        name=run_dir.resolve().name,
        results=results,
        headline=headline(results),
        method=describe(results.settings["method"]),
        acting=acting(results),
        lines=results.lines(),
        titles=TITLES,
        pooled=POOLED,
        hours=robot_hours(results),
        per_hour=per_hour,
        practised=practised(results),
        transfer=transfer(results),
        dropped=dropped,
        captions=CAPTIONS,
        plots={name: _image(themes, dpi=DPI) for name, themes in plots.items()},
        clips=videos,
        settings=_settings(run_dir, results),
        notes=remarks,
    )
    path = run_dir / "report.html"
    with writing(path) as aside:
        aside.write_text(page)
    return path


# --- In words


def headline(results: Results) -> str:
    """Return the result in one sentence.

    "RL tasks rose from 24% to 71%; expert tasks went from 88% to 90%, within noise."
    """
    lines = [results.line(category) for category in ORDER if results.tasks(category)]
    text = "; ".join(_clause(line) for line in lines if line.before)
    if not text:
        return "Nothing has been evaluated yet."
    return f"{text[0].upper()}{text[1:]}."


def _clause(line: Line) -> str:
    name = TITLES[line.category]
    if line.category != Category.RL:
        name = name.lower()
    assert line.before is not None
    before = percent(line.before.rate)
    if line.after is None or line.change is None:
        return f"{name} start at {before}"
    after = percent(line.after.rate)
    if line.change.noise:
        return f"{name} went from {before} to {after}, within noise"
    verb = "rose" if line.change.difference > 0 else "fell"
    return f"{name} {verb} from {before} to {after}"


def verdict(what: Change) -> str:
    """Return a change as a sign: better, worse, or within noise."""
    if what.noise:
        return "≈"
    return "▲" if what.difference > 0 else "▼"


def percent(rate: float) -> str:
    """Return a rate as text: "82%"."""
    return f"{hundredths(rate)}%"


def span(ci95: tuple[float, float]) -> str:
    """Return an interval of rates as text: "69–90%"."""
    low, high = map(hundredths, ci95)
    return f"{low}–{high}%"


def signed(difference: float) -> str:
    """Return a difference of rates in percentage points: "+46", "−3", "0"."""
    points = hundredths(difference)
    return f"{points:+d}".replace("-", "−") if points else "0"


def describe(method: str) -> str:
    """Return what a method does, in words.

    "supervised learning on expert demonstrations, then, for each RL task, ..."
    """
    if method not in METHODS:
        return ""
    row = METHODS[method]
    stages = []
    if row.sft:
        stages.append("supervised learning on expert demonstrations")
    if row.rl != "none":
        new = "" if row.sft else "a new policy and "
        stages.append(f"for each RL task, {new}reinforcement learning of {TRAINED[row.rl]}")
    if row.sl != "none":
        begins = "" if row.rl != "none" else "for each RL task, "
        online = " and on the policy's own successes" if row.harvest else " alone"
        stages.append(f"{begins}supervised learning of {TRAINED[row.sl]} on expert data{online}")
    return f": {', then '.join(stages)}"


def acting(results: Results) -> str:
    """Return how the policy acts while it is evaluated, in words."""
    first = " ".join([chunks(*results.chunk), "Evaluated without exploration noise: "]).lstrip()
    if results.discrete_gripper:
        return (
            f"{first}the motion is the policy's mean; the gripper is drawn, open or closed, with "
            "the probability that the policy has learnt, and episode and step settle what is drawn"
        )
    return f"{first}every action is the policy's mean"


def code(git: str) -> str:
    """Return which code gave the numbers, in Markdown."""
    if not git:
        return "The code is not known: no git commit, as of an installed irevla"
    if not is_clean(git):
        return f"The code is not known: it had changes that are not in the commit ({git})"
    return f"Code: irevla, commit `{git}`"


def notes(run_dir: Path, results: Results) -> Iterator[str]:
    """Yield what a reader should know before believing the numbers."""
    if results.last is None and results.settings["method"] != SFT.name:
        yield "This run is not finished: nothing has been evaluated after stage 0 yet."
    if not is_clean(results.git):
        yield f"{code(results.git)}. Nobody can repeat this run to the bit."
    if len(results.seeds) == 1:
        yield (
            "One seed: the intervals cover the luck of the evaluation episodes, not that of "
            "another training run."
        )
    blind = [task for task in results.tasks() if _blind_suffices(results, task)]
    if blind:
        yield (
            "A blind replay of demonstrations does as well as the policy, within noise, on "
            f"{', '.join(blind)}: a success there says nothing about seeing."
        )
    for record in read_lines(run_dir / "journal.jsonl"):
        if record.get("dropped"):
            yield (
                f"{record['dropped']} episodes were dropped because an environment worker died "
                f"({record['event']})."
            )
        if record.get("note"):
            yield f"{record['note']} ({record['event']})."


def _blind_suffices(results: Results, task: str) -> bool:
    blind = results.count(BASELINE, task=task, method="blind-replay")
    policy = results.count(results.last or SFT, task=task)
    gain = change(blind, policy)
    if blind is None or blind.successes == 0 or gain is None:
        return False
    return gain.difference <= 0 or gain.noise


# --- Parts of the page


def _is_ours(path: Path, run_dir: Path) -> bool:
    """Whether a file that index.json names lies in the run's own videos: it goes into the page."""
    inside = path.parent == run_dir / "videos" and path.name == Path(path.name).name
    try:
        return inside and path.is_file() and not path.is_symlink()
    except OSError:  # a name that no file can have
        return False


def clips(run_dir: Path, results: Results) -> Iterator[Clip]:
    """Yield the videos that videos/index.json lists: of RL tasks, expert, unseen and other ones."""
    index = run_dir / "videos" / "index.json"
    if not index.exists():
        return
    listed = _listed(index)
    known = {
        task: TITLES[category].removesuffix("s")
        for category in ORDER
        for task in results.tasks(category)
    }
    others = [task for task in listed if task not in known]
    for task in [*known, *others]:
        path = run_dir / "videos" / f"{task}.mp4"
        if task in listed and _is_ours(path, run_dir):
            success, seed, stage = listed[task]
            category = known.get(task, "")
            yield Clip(task, category, success, seed, stage.title, mp4=_base64(path))


def _listed(index: Path) -> dict[str, tuple[bool, int, Stage]]:
    """Return what index.json says of each video: its success, its seed and its stage."""
    remedy = "delete it to write the report without videos"
    listed = read_json(index, remedy=remedy)
    with shaped(index, remedy=remedy):
        return {
            task: (bool(clip["success"]), int(clip["seed"]), Stage.parse(clip["stage"]))
            for task, clip in mapping(listed, "index").items()
        }


def _settings(run_dir: Path, results: Results) -> str:
    path = run_dir / "config.yaml"
    if path.exists():
        return read_text(path)
    return yaml.safe_dump(dict(results.config), sort_keys=False)


def _image(themes: Mapping[str, Path], *, dpi: int) -> dict[str, str | int]:
    """Return both PNGs, and the width in CSS pixels at which letters are as large as the page's."""
    width = int.from_bytes(themes["light"].read_bytes()[16:20], "big")  # the PNG header has it
    encoded = {theme: _base64(path) for theme, path in themes.items()}
    return {"width": round(width * 96 / dpi), **encoded}


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
