"""Supervised learning, stages 0 and 2 of Algorithm 1: mean squared error on D_e (equation 2), or on
D_e and D_RL (4).

The state is the model, the optimiser, the step and the best weights so far; batches and
augmentation are functions of (seed, step). So a run killed and resumed ends with the same bits as
one never killed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from irevla.config import SFTConfig
from irevla.data.mixture import Batch, Mixture
from irevla.data.transforms import colour_mix, name_colours, random_shift, swap_words
from irevla.errors import UserError
from irevla.runs.checkpoint import Checkpoints, load_optimizer, optimizer_tensors, series_name

LOG_EVERY = 50  # steps between two records of the training loss

OnStep = Callable[[int, int], None]  # steps done, steps in all
Log = Callable[[int, Mapping[str, float]], None]  # steps done, what was measured


@runtime_checkable
class Imitator(Protocol):
    """What supervised learning needs of a policy."""

    def __call__(
        self, images: UInt8[Tensor, "B H W 3"], instructions: Sequence[str], /
    ) -> Float[Tensor, "B A"]:
        """The mean action for each picture and instruction, with gradients."""
        ...

    def trainable(self, what: Any, /) -> list[nn.Parameter]:
        """Make exactly "all" or the "head" trainable; return those parameters."""
        ...

    def files(self) -> Mapping[str, Any]:
        """The policy as files of a checkpoint."""
        ...

    def load_files(self, files: Mapping[str, Any], /) -> None:
        """Take the weights from such files."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch dropout on or off, as `nn.Module.train`."""
        ...


@dataclass(frozen=True)
class SFTResult:
    """What a supervised stage came to. The policy has the weights of `best_step`."""

    best_step: int
    best_loss: (
        float | None
    )  # validation MSE of these weights; None without held-out episodes: then the last ones are kept
    train_loss: float | None  # mean over the last logged window; None if it had no finite loss
    skipped: int  # steps without an update because a gradient was not finite
    resumed: int  # step at which this call took up the work; 0 for a fresh start


@dataclass(frozen=True)
class _State:
    """What a checkpoint holds besides tensors."""

    step: int = 0  # steps done
    best_step: int = 0
    best_loss: float | None = None
    train_loss: float | None = None
    skipped: int = 0


def fit(
    policy: Imitator,
    mixture: Mixture,
    config: SFTConfig,
    *,
    seed: int,
    trainable: str = "all",
    words: Sequence[str] = (),
    name: str = "sft",
    checkpoints: Checkpoints | None = None,
    on_step: OnStep | None = None,
    log: Log | None = None,
) -> SFTResult:
    """Train `policy` on `mixture` for `config.steps` steps, then give it the weights that validated
    best. `words` are what `config.words` puts in the place of others.

    With `checkpoints`, the state is saved as the series `name` at every validation, and the newest
    is taken up first. Raises `UserError` where that one was made with other settings or data, or
    where no step ever had a finite gradient.
    """
    run = _Run(policy, mixture, config, seed=seed, trainable=trainable, words=words)
    resumed = run.resume(checkpoints, name) if checkpoints else 0
    window: list[float] = []
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        while run.state.step < config.steps:
            metrics = run.step()
            window.append(metrics["loss"])
            done = run.state.step
            validates = done % config.validate_every == 0 or done == config.steps
            if validates or done % LOG_EVERY == 0:
                metrics["loss"] = run.close_window(window)
                window.clear()
            if validates:
                metrics |= run.validate()
                if checkpoints:
                    checkpoints.save(series_name(name, done), run.files())
            if log and (validates or done % LOG_EVERY == 0):
                log(done, metrics)
            if on_step:
                on_step(done, config.steps)
    return run.finish(resumed)


class _Run:
    """The state of a run and what can be done with it."""

    def __init__(
        self,
        policy: Imitator,
        mixture: Mixture,
        config: SFTConfig,
        *,
        seed: int,
        trainable: str,
        words: Sequence[str],
    ) -> None:
        assert words or not config.words, "no words to put in"
        self.policy, self.mixture, self.config, self.seed, self.words = (
            policy,
            mixture,
            config,
            seed,
            words,
        )
        self.parameters = policy.trainable(trainable)
        self.device = self.parameters[0].device
        fused = (
            self.device.type == "cpu"
        )  # one pass over the weights; on a GPU the default is as good
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused or None
        )
        self.state = _State()
        self.best: Mapping[str, Any] = {}
        self.settings = {
            "seed": seed,
            "trainable": trainable,
            **mixture.signature(),
            **asdict(config),
        }

    def step(self) -> dict[str, float]:
        """One gradient step of J(theta, phi) (equations 2 and 4, per action dimension)."""
        number = self.state.step
        torch.manual_seed(
            _mix(self.seed, number)
        )  # dropout's draws, too, must not depend on what ran before
        lr = learning_rate(self.config, number)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        images, instructions, actions = self._augmented(number)
        self.policy.train()
        prediction = self.policy(images.to(self.device), instructions)
        loss = nn.functional.mse_loss(prediction.float(), actions.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_gradients(self.parameters, self.config.grad_clip)
        finite = math.isfinite(norm)
        if finite:
            self.optimizer.step()
        self.state = replace(self.state, step=number + 1, skipped=self.state.skipped + (not finite))
        return {"loss": loss.item(), "lr": lr, "grad_norm": norm, "skipped": self.state.skipped}

    def close_window(self, losses: Sequence[float]) -> float:
        """The mean of the finite ones; NaN where there is none."""
        finite = [loss for loss in losses if math.isfinite(loss)]
        mean = float(np.mean(finite)) if finite else math.nan
        self.state = replace(self.state, train_loss=mean if finite else None)
        return mean

    def _augmented(self, number: int) -> Batch:
        config = self.config
        batch = self.mixture.batch(number, config.batch, self.seed)
        images: Tensor = batch.images
        instructions: list[str] = batch.instructions
        generator = torch.Generator().manual_seed(_mix(self.seed, number, 1))
        if config.shift:
            images = random_shift(images, config.shift, generator)
        if config.colour and config.colour_share:
            named = min(config.colour_named, config.colour)
            strength = torch.where(name_colours(instructions), named, config.colour)
            images = colour_mix(images, strength, config.colour_share, generator)
        if config.words:
            instructions = swap_words(instructions, self.words, config.words, generator)
        return Batch(images, instructions, batch.actions)

    def validate(self) -> dict[str, float]:
        """MSE on the held-out episodes, weighted as the batches are; keeps the weights if they are
        the best so far."""
        losses = {name: self._mse(batches) for name, batches in self.mixture.validation().items()}
        if not losses:
            self._keep(None)
            return {}
        share = self.mixture.online_share if len(losses) == 2 else float("online" in losses)
        loss = (1 - share) * losses.get("expert", 0.0) + share * losses.get("online", 0.0)
        best = self.state.best_loss
        if not self.best or (math.isfinite(loss) and (best is None or loss < best)):
            self._keep(loss if math.isfinite(loss) else None)
        return {"validation": loss} | {
            f"validation_{name}": value for name, value in losses.items()
        }

    @torch.inference_mode()
    def _mse(self, batches: Any) -> float:
        self.policy.train(False)
        total, count = 0.0, 0
        batch: Batch
        for batch in batches:
            errors = self.policy(
                batch.images.to(self.device), batch.instructions
            ).float() - batch.actions.to(self.device)
            total += errors.double().square().sum().item()
            count += errors.numel()
        return total / count

    def _keep(self, loss: float | None) -> None:
        self.best = _copied(self.policy.files())
        self.state = replace(self.state, best_step=self.state.step, best_loss=loss)

    def files(self) -> dict[str, Any]:
        """Everything that a resumed run needs. "best-..." are the files of the policy that
        validated best."""
        state = {"settings": self.settings, "state": asdict(self.state)}
        best = {f"best-{name}": content for name, content in self.best.items()}
        return {
            **self.policy.files(),
            **best,
            "optimizer.safetensors": optimizer_tensors(self.optimizer),
            "sft.json": state,
        }

    def resume(self, checkpoints: Checkpoints, name: str) -> int:
        """Take up the newest checkpoint of the series; returns its step, or 0 where there is
        none."""
        found = checkpoints.newest(name)
        if found is None:
            return 0
        path, files = found
        saved = files.pop("sft.json")
        for key, value in self.settings.items():
            if saved["settings"].get(key) != value:
                raise UserError(
                    f"{path} was made with {key} = {saved['settings'].get(key)}, not {value}; "
                    "resume with the same settings, or delete it to repeat the stage"
                )
        load_optimizer(self.optimizer, files.pop("optimizer.safetensors"))
        self.best = {
            key.removeprefix("best-"): files.pop(key)
            for key in list(files)
            if key.startswith("best-")
        }
        self.policy.load_files(files)
        self.state = _State(**saved["state"])
        return self.state.step

    def finish(self, resumed: int) -> SFTResult:
        """Give the policy its best weights and say what came out."""
        state = self.state
        if state.skipped == state.step:
            raise UserError(
                "supervised learning: no gradient was finite; lower the learning rate or check the dataset"
            )
        self.policy.load_files(self.best)
        self.policy.train(False)
        return SFTResult(state.best_step, state.best_loss, state.train_loss, state.skipped, resumed)


def learning_rate(config: SFTConfig, step: int) -> float:
    """Linear warm-up over `config.warmup` steps, then half a cosine down to 0 at the last."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> float:
    """Scale the gradients to norm `limit` at most; returns the norm before.

    Where it is not finite nothing is scaled, and the step must be skipped: scaling by it would make
    every gradient NaN.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    value = float(norm.item())
    if math.isfinite(value):
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return value


def _mix(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _copied(files: Mapping[str, Any]) -> dict[str, Any]:
    """The same files with tensors of their own: the policy's go on changing."""
    return {
        name: {key: value.detach().clone() for key, value in content.items()}
        if name.endswith(".safetensors")
        else content
        for name, content in files.items()
    }
