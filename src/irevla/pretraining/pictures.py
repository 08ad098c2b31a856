"""Pictures of a pretraining, for people: its learning curve, and a sheet of held-out pictures with
answers."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from irevla.evaluation.plots import DPI, GREY, LIGHT, WIDTH
from irevla.models.vlm.tiny import TinyVLM
from irevla.pretraining.corpus import Corpus
from irevla.runs.metrics import read_metrics

SHOWN = (
    "task",
    "motion",
    "place",
    "hand",
    "state",
    "colour",
    "exists",
    "relation",
)  # families of the second panel
SHEET = (3, 5)  # rows and columns of the sheet


def draw(directory: Path, model: TinyVLM, exam: Corpus) -> None:
    """DIR/curve.png, from DIR/metrics.jsonl alone, and DIR/sheet.png."""
    with mpl.rc_context(LIGHT.style()):
        _save(_curve(read_metrics(directory / "metrics.jsonl")), directory / "curve.png")
        _save(_sheet(model, exam), directory / "sheet.png")


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _curve(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The loss, and the held-out questions answered (nearly) right."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [(row["step"], row["loss"]) for row in rows if row["stage"] == "pretrain"]
    left.plot(*zip(*losses, strict=True), color=GREY, lw=1)
    left.set(title="Loss", xlabel="step", ylabel="nats per token", yscale="log")
    exams = [row for row in rows if row["stage"] == "exam"]
    for family in SHOWN:
        _family(right, exams, family)
    right.set(title="Held-out questions answered (nearly) right", xlabel="step", ylim=(0, 1))
    right.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure


def _family(axis: Axes, exams: Sequence[Mapping[str, Any]], family: str) -> None:
    name = f"{family}_near" if any(f"{family}_near" in row for row in exams) else f"{family}_right"
    points = [
        (row["step"], row.get(name, row.get(f"{family}_right")))
        for row in exams
        if f"{family}_right" in row
    ]
    if points:
        axis.plot(*zip(*points, strict=True), label=family, lw=1.5)


def _sheet(model: TinyVLM, exam: Corpus) -> Figure:
    """Held-out pictures, one question about each, what the model says, and the truth where it says
    something else."""
    rows, columns = SHEET
    figure = Figure(figsize=(WIDTH, 2.75 * rows), layout="constrained")
    count = rows * columns
    for number, axis in enumerate(figure.subplots(rows, columns).flat):
        picture = number * len(exam) // count
        asked = exam.questions[picture]
        question = asked[number % len(asked)]
        told = model.generate(exam.images[torch.tensor([picture])], [question.text])[0]
        axis.imshow(exam.images[picture].numpy(), interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        truth = "" if told == question.answer else f"\n({_short(question.answer)})"
        axis.set_xlabel(
            f"{_short(question.text)}\n$\\bf{{says:}}$ {_short(told)}{truth}", fontsize=6.5
        )
    return figure


def _short(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 38)[:3])
