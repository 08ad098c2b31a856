"""Pretraining of the small VLM: cross-entropy on the answers' tokens (teacher forcing), AdamW, half
a cosine.

Batch number k is a function of (seed, k) alone, and the state is model, optimiser and step: a run
killed and resumed ends with the same bits as one never killed.
"""

import dataclasses
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from irevla.config import PretrainConfig, SFTConfig
from irevla.errors import UserError
from irevla.learners.sft import clip_gradients, learning_rate
from irevla.models.vlm.pretrained import save_tiny
from irevla.models.vlm.tiny import IGNORE, TinyVLM
from irevla.pretraining.corpus import EXAM, TRAIN, Corpus, Drawing, corpus
from irevla.pretraining.exam import Grade, examine
from irevla.runs.checkpoint import Checkpoints, load_optimizer, optimizer_tensors, series_name
from irevla.runs.metrics import Metrics
from irevla.runs.progress import bar, console
from irevla.runs.run import command, git_commit, machine, open_directory, write_atomically
from irevla.setting import device, threads

NAME, WEIGHTS = "pretrain", "model.safetensors"
KIND_OF = {
    "caption": "caption",
    "motion": "way",
    "task": "way",
}  # family -> kind; every other is "short"
CYCLE = (
    "way",
    "short",
    "way",
    "caption",
    "way",
    "short",
    "way",
    "way",
)  # the kinds of successive batches
LOG_EVERY = 50  # steps between two records of the loss
GLANCE, FULL = 1_500, 10_000  # questions of the exam at a checkpoint, and at the end


def pretrain(directory: Path, config: PretrainConfig, *, appearances: int = 16) -> dict[str, Any]:
    """Draw the corpus (`appearances` in a shard), fit the model, sit the exam: all in `directory`,
    and again goes on.

    DIR/tiny.safetensors are the weights; DIR/results.json, which is returned, has the grades.
    Raises `UserError` as `open_directory` and `corpus` do.
    """
    place = device(config.device)  # before anything is written
    with open_directory(directory, config) as (_, metrics, checkpoints):
        drawing = Drawing(config.image_size, config.seed, config.workers, appearances)
        exam = corpus(directory / "corpus", drawing, split=EXAM, pictures=config.exam)
        train = corpus(directory / "corpus", drawing, split=TRAIN, pictures=config.pictures)
        model = fit(config, train, exam, device=place, checkpoints=checkpoints, metrics=metrics)
        return _finish(directory, config, model, exam)


class _State:
    """Model, optimiser and step."""

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.model = TinyVLM(
            width=config.width, layers=config.layers, image_size=config.image_size
        ).to(device)
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
            console.print(f"[yellow]passed over:[/] {reason}", soft_wrap=True)
        if found is not None:
            console.print(f"going on from {found[0]}", soft_wrap=True)
            self.model.load_state_dict(found[1][WEIGHTS])
            load_optimizer(self.optimizer, found[1]["optimizer.safetensors"])
            self.step = found[1]["state.json"]["step"]


def fit(
    config: PretrainConfig,
    train: Corpus,
    exam: Corpus,
    *,
    device: torch.device,
    checkpoints: Checkpoints,
    metrics: Metrics,
) -> TinyVLM:
    """The fitted model. `metrics` gets the loss and, at each checkpoint, a glance at the exam.

    Raises `UserError` where no step since the last checkpoint had a finite gradient.
    """
    state = _State(config, device)
    state.resume(checkpoints)
    batches = _Batches(train, config)
    schedule = SFTConfig(steps=config.steps, lr=config.lr, warmup=config.warmup)
    losses: list[float] = []
    with (
        bar("Pretraining", config.steps) as advance,
        threads(config.threads or os.cpu_count() or 1),
    ):
        while state.step < config.steps:
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(schedule, state.step)
            losses.append(_update(state, batches.batch(state.step), config.grad_clip))
            state.step += 1
            if state.step % LOG_EVERY == 0:
                metrics.log(NAME, state.step, loss=float(np.mean(losses[-LOG_EVERY:])))
                advance(state.step, f"loss {np.mean(losses[-LOG_EVERY:]):.3f}")
            if state.step % config.validate_every == 0 or state.step == config.steps:
                if not np.isfinite(losses[-config.validate_every :]).any():
                    raise UserError(
                        "pretraining: no loss was finite any more; choose a lower lr and another --out"
                    )
                checkpoints.save(series_name(NAME, state.step), state.files())
                grades = examine(state.model.eval(), exam, limit=GLANCE)
                metrics.log("exam", state.step, **_flat(grades))
    return state.model.eval()


class _Batches:
    """Random questions with their pictures. Each batch is of one kind, whose answers are about
    equally long."""

    def __init__(self, train: Corpus, config: PretrainConfig) -> None:
        self._train, self._config = train, config
        pairs = [
            (p, i, KIND_OF.get(q.family, "short"))
            for p, asked in enumerate(train.questions)
            for i, q in enumerate(asked)
        ]
        every = np.array([(p, i) for p, i, _ in pairs], np.int32)
        kinds = np.array([kind for _, _, kind in pairs])
        self._pools = {kind: every[kinds == kind] for kind in set(CYCLE)}

    def batch(self, step: int) -> tuple[Tensor, list[str], list[str]]:
        """Pictures, questions and answers of batch number `step`."""
        rng = np.random.default_rng([self._config.seed, step])
        pool = self._pools[CYCLE[step % len(CYCLE)]]
        rows = pool[rng.integers(len(pool), size=self._config.batch)]
        asked = [self._train.questions[picture][index] for picture, index in rows]
        images = self._train.images[torch.from_numpy(rows[:, 0].astype(np.int64))]
        return (
            images,
            [question.text for question in asked],
            [question.answer for question in asked],
        )


def _update(state: _State, batch: tuple[Tensor, list[str], list[str]], limit: float) -> float:
    """One gradient step; the loss in nats per token of the answers. A step with a non-finite
    gradient is skipped."""
    images, prompts, answers = batch
    device = state.model.embedding.weight.device
    targets = state.model.targets(answers).to(device)
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        scores = state.model.train().logits(images.to(device), prompts, answers)
    loss = F.cross_entropy(scores.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if np.isfinite(clip_gradients(state.parameters, limit)):
        state.optimizer.step()
    return loss.item()


def _finish(
    directory: Path, config: PretrainConfig, model: TinyVLM, exam: Corpus
) -> dict[str, Any]:
    """Write the weights and the grades."""
    save_tiny(
        directory / "tiny.safetensors", model, layers=config.layers, image_size=config.image_size
    )
    results = {
        "config": dataclasses.asdict(config),
        "git": git_commit(),
        "machine": machine(),
        "command": command(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "exam": _table(examine(model, exam, limit=FULL)),
        "exam_blind": _table(examine(model, exam, limit=FULL, blind=True)),
    }
    write_atomically(directory / "results.json", json.dumps(results, indent=1))
    if find_spec("matplotlib"):
        from irevla.pretraining.pictures import draw

        draw(directory, model, exam)
    return results


def _table(grades: dict[str, Grade]) -> dict[str, dict[str, float]]:
    return {family: dataclasses.asdict(grade) for family, grade in grades.items()}


def table(results: dict[str, Any]) -> Table:
    """The grades for people: share of the held-out questions answered right, beside answers without
    the picture."""
    drawn = Table(box=None, header_style="bold", title="Held-out questions", title_justify="left")
    for column in ("family", "right", "nearly", "without the picture", "questions"):
        drawn.add_column(column, justify="left" if column == "family" else "right")
    for family, grade in results["exam"].items():
        blind = results["exam_blind"][family]["right"]
        drawn.add_row(
            family, f"{grade['right']:.2f}", f"{grade['near']:.2f}", f"{blind:.2f}", str(grade["count"])
        )  # fmt: skip
    return drawn


def _flat(grades: dict[str, Grade]) -> dict[str, float]:
    right = {f"{family}_right": grade.right for family, grade in grades.items()}
    return right | {
        f"{family}_near": grade.near
        for family, grade in grades.items()
        if grade.near != grade.right
    }
