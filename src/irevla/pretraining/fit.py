"""Pretraining of the small VLM: cross-entropy on the answers' tokens (teacher forcing), AdamW, half
a cosine.

Batch number k is a function of (seed, k) alone, and the state is model, optimiser and step: a run
killed and resumed ends with the same bits as one never killed.
"""

import dataclasses
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table

from irevla.compute.device import find_device, seeded, threads
from irevla.config import PretrainConfig, SFTConfig
from irevla.errors import UserError
from irevla.learners.optim import learning_rate, step_if_finite, unfinished_warm_up
from irevla.models.vlm.pretrained import save_tiny
from irevla.models.vlm.tiny import IGNORE, TinyVLM
from irevla.pretraining.corpus import EXAM, TRAIN, Corpus, RenderSettings, corpus
from irevla.pretraining.exam import Grade, examine
from irevla.progress import bar, console
from irevla.runs.run import open_directory
from irevla.storage.checkpoint import Checkpoints, load_optimizer, optimizer_tensors, series_name
from irevla.storage.disk import writing
from irevla.storage.metrics import Metrics
from irevla.storage.provenance import command, git_commit, machine
from irevla.types import Observation

NAME = "pretrain"  # of the series of checkpoints, and of the stage in metrics
WEIGHTS = "model.safetensors"
# Family -> kind; every other is "short".
KIND_OF = {"caption": "caption", "motion": "way", "task": "way"}
# The kinds of successive batches.
CYCLE = ("way", "short", "way", "caption", "way", "short", "way", "way")
LOG_EVERY = 50  # steps between two records of the loss
GLANCE = 1_500  # questions of the exam at a checkpoint ...
FULL = 10_000  # ... and at the end


def pretrain(directory: Path, config: PretrainConfig, *, appearances: int = 16) -> dict[str, Any]:
    """Render the corpus (`appearances` in a shard), fit the model, sit the exam: all in
    `directory`.

    The same call again goes on. DIR/tiny.safetensors are the weights; DIR/results.json, which is
    returned, has the grades. Raises `UserError` as `open_directory` and `corpus` do.
    """
    device = find_device(config.device)  # before anything is written
    settings = RenderSettings(config.image_size, config.seed, config.workers, appearances)
    root = directory / "corpus"
    with open_directory(directory, config) as (_, metrics, checkpoints):
        exam = corpus(root, settings, split=EXAM, images=config.exam)
        train = corpus(root, settings, split=TRAIN, images=config.pictures)
        model = fit(config, train, exam, device=device, checkpoints=checkpoints, metrics=metrics)
        return _finish(directory, config, model, exam)


class _State:
    """Model, optimiser and step."""

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        with seeded(config.seed):
            model = TinyVLM(width=config.width, layers=config.layers, image_size=config.image_size)
        self.model = model.to(device)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.lr,
            weight_decay=config.weight_decay,
            fused=device.type == "cpu" or None,
        )
        self.step = 0

    def files(self) -> dict[str, Any]:
        return {
            WEIGHTS: dict(self.model.state_dict()),
            "optimizer.safetensors": optimizer_tensors(self.optimizer),
            "state.json": {"step": self.step},
        }

    def resume(self, checkpoints: Checkpoints) -> None:
        """Take up the newest sound checkpoint, if there is one, and say which."""
        found = checkpoints.newest(NAME)
        for reason in checkpoints.passed_over:
            console.print(f"passed over: {reason}", style="yellow", soft_wrap=True)
        if found is not None:
            path, files = found
            console.print(f"going on from {path}", soft_wrap=True)
            self.model.load_state_dict(files[WEIGHTS])
            load_optimizer(self.optimizer, files["optimizer.safetensors"])
            self.step = files["state.json"]["step"]


def fit(
    config: PretrainConfig,
    train: Corpus,
    exam: Corpus,
    *,
    device: torch.device,
    checkpoints: Checkpoints,
    metrics: Metrics,
) -> TinyVLM:
    """Return the fitted model. `metrics` gets the loss and, at each checkpoint, a glance at the
    exam.

    Raises `UserError` where no step since the last checkpoint had a finite gradient.
    """
    state = _State(config, device)
    state.resume(checkpoints)
    batches = _Batches(train, config)
    schedule = SFTConfig(steps=config.steps, lr=config.lr, warmup=config.warmup)
    if line := unfinished_warm_up(schedule):
        console.print(line, style="yellow", soft_wrap=True)
    losses: list[float] = []
    with bar("Pretraining", config.steps) as advance, threads(config.threads):
        while state.step < config.steps:
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(schedule, state.step)
            losses.append(_update(state, *batches.batch(state.step), limit=config.grad_clip))
            state.step += 1
            if state.step % LOG_EVERY == 0:
                loss = float(np.mean(losses[-LOG_EVERY:]))
                metrics.log(NAME, state.step, loss=loss)
                advance(state.step, f"loss {loss:.3f}")
            if state.step % config.validate_every == 0 or state.step == config.steps:
                if not np.isfinite(losses[-config.validate_every :]).any():
                    raise UserError(
                        "pretraining: no loss was finite any more; choose a lower lr and another "
                        "--out"
                    )
                checkpoints.save(series_name(NAME, state.step), state.files())
                grades = examine(state.model.eval(), exam, limit=GLANCE)
                metrics.log("exam", state.step, **_flat(grades))
    return state.model.eval()


class _Batches:
    """Random questions with their images.

    Each batch is of one kind, whose answers are about equally long.
    """

    def __init__(self, train: Corpus, config: PretrainConfig) -> None:
        self._train = train
        self._seed = config.seed
        self._size = config.batch
        pools: dict[str, list[tuple[int, int]]] = {kind: [] for kind in CYCLE}
        for image, asked in enumerate(train.questions):
            for index, question in enumerate(asked):
                pools[KIND_OF.get(question.family, "short")].append((image, index))
        self._pools = {kind: np.array(pairs, np.int32) for kind, pairs in pools.items()}

    def batch(self, step: int) -> tuple[Observation, list[str]]:
        """Return images with questions, and the answers, of batch number `step`."""
        rng = np.random.default_rng([self._seed, step])
        pool = self._pools[CYCLE[step % len(CYCLE)]]
        rows = pool[rng.integers(len(pool), size=self._size)]
        asked = [self._train.questions[image][index] for image, index in rows]
        images = self._train.images[torch.from_numpy(rows[:, 0].astype(np.int64))]
        texts = tuple(question.text for question in asked)
        return Observation(images, texts), [question.answer for question in asked]


def _update(
    state: _State, observation: Observation, answers: Sequence[str], *, limit: float
) -> float:
    """Take one gradient step; return the loss in nats per token of the answers.

    A step with a non-finite gradient is skipped.
    """
    device = state.model.embedding.weight.device
    targets = state.model.targets(answers).to(device)
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        scores = state.model.train().logits(observation.to(device), answers)
    loss = F.cross_entropy(scores.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    loss.backward()  # type: ignore[no-untyped-call]
    step_if_finite(state.optimizer, {"": state.parameters}, limit=limit)
    return loss.item()


def _finish(
    directory: Path, config: PretrainConfig, model: TinyVLM, exam: Corpus
) -> dict[str, Any]:
    """Write the weights and the grades; return what results.json has."""
    weights = directory / "tiny.safetensors"
    save_tiny(weights, model, layers=config.layers, image_size=config.image_size)
    results = {
        "config": dataclasses.asdict(config),
        "git": git_commit(),
        "machine": machine(),
        "command": command(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "exam": _table(examine(model, exam, limit=FULL)),
        "exam_blind": _table(examine(model, exam, limit=FULL, blind=True)),
    }
    with writing(directory / "results.json") as aside:
        aside.write_text(json.dumps(results, indent=1))
    if find_spec("matplotlib"):
        from irevla.pretraining.plots import write_plots

        write_plots(directory, model, exam)
    return results


def _table(grades: dict[str, Grade]) -> dict[str, dict[str, float]]:
    return {family: dataclasses.asdict(grade) for family, grade in grades.items()}


def table(results: dict[str, Any]) -> Table:
    """Return the grades for people: the share of the held-out questions that is answered right.

    Beside it stands the share that is answered right without the image.
    """
    shown = Table(box=None, header_style="bold", title="Held-out questions", title_justify="left")
    shown.add_column("family")
    for column in ("right", "nearly", "without the image", "questions"):
        shown.add_column(column, justify="right")
    for family, grade in results["exam"].items():
        blind = results["exam_blind"][family]["right"]
        shares = [f"{share:.2f}" for share in (grade["right"], grade["near"], blind)]
        shown.add_row(family, *shares, str(grade["count"]))
    return shown


def _flat(grades: dict[str, Grade]) -> dict[str, float]:
    """Return what is logged of grades; "_near" only where it says more than "_right"."""
    flat = {}
    for family, grade in grades.items():
        flat[f"{family}_right"] = grade.right
        if grade.near != grade.right:
            flat[f"{family}_near"] = grade.near
    return flat
