"""Stages 0 and 2: supervised learning on D_e (equation 2), or on D_e and D_RL (equation 4)."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch

from irevla.compute.device import threads
from irevla.config import SFTConfig
from irevla.data.episodes import EpisodeStore, ExpertDataset, Frames
from irevla.data.mixture import Mixture
from irevla.envs.suite import Suite
from irevla.errors import UserError
from irevla.learners.sft import SFT
from irevla.models.policy import VLAPolicy
from irevla.models.vlm.tokenizer import words
from irevla.progress import bar, console
from irevla.runs.run import Run
from irevla.stages.contract import check_learnt, complete, load_if_done, resume, save
from irevla.stages.elsewhere import Begun, begin_elsewhere, engine_of, learn_elsewhere
from irevla.stages.fit import fit, in_scale
from irevla.tasks import Parts, Stage


def run_supervised(
    run: Run,
    policy: VLAPolicy,
    stage: Stage,
    parts: Parts,
    *,
    suite: Suite,
    expert: ExpertDataset,
    online: EpisodeStore | None = None,
    episodes: int | None = None,
    begun: Begun | None = None,
) -> VLAPolicy:
    """Let `parts` of the policy learn from D_e and, in stage 2, from D_RL.

    `episodes`: the first so many of D_RL; None: all. `begun`: what `begin_supervised` started.
    Raises `UserError` where no step ever had a finite gradient, or one but exact zeros.
    """
    if load_if_done(run, policy, stage):
        return policy
    config, learner, frames = _learner(
        run, policy, stage, parts, suite=suite, online=online, episodes=episodes
    )
    scale = policy.action_scale
    mixture = Mixture(
        in_scale(expert.read(), scale),
        None if frames is None else in_scale(frames, scale),
        run.config.mixture,
        seed=run.draws(stage),
        chunk=policy.chunk,
    )
    others = engine_of(run.config, stage) != "inline"
    if others:
        learn_elsewhere(
            run,
            policy,
            learner,
            stage,
            parts,
            title=_title(stage),
            expert=expert.read(),
            online=frames,
            begun=begun,
        )
    resume(run.checkpoints, policy, stage, learner, silent=others)

    def point(metrics: Mapping[str, float], validated: bool) -> None:
        if validated:
            save(run.checkpoints, policy, stage, learner)
        run.metrics.log(stage.name, learner.updates, **metrics)

    if learner.updates < config.steps:
        with threads(run.config.threads), bar(_title(stage), config.steps) as advance:
            fit(learner, mixture, point=point, advance=advance)

    if learner.skipped == learner.updates:
        raise UserError(
            "supervised learning: no gradient was finite; lower the learning rate or check the data"
        )
    check_learnt(stage, updates=learner.updates, moved=learner.moved)
    policy.eval()
    clipped = _clipped(policy, expert.read(), frames)
    complete(run, policy, stage, skipped=learner.skipped, **clipped)
    return policy


def _clipped(policy: VLAPolicy, expert: Frames, online: Frames | None) -> dict[str, str]:
    """Return a note on how many actions were outside the policy's scale, which are clipped in what
    it learns, dimension by dimension; nothing where all the suite's actions are inside."""
    scale = policy.action_scale
    if scale.kind == "suite":
        return {}
    said = []
    for name, frames in {"D_e": expert, "D_RL": online}.items():
        if frames is not None:
            counts = scale.outside(torch.from_numpy(frames.actions)).tolist()
            said.append(f"{', '.join(map(str, counts))} of {len(frames)} in {name}")
    note = (
        f"actions are scaled by {scale.kind}, and clipped beyond that, dimension by dimension: "
        f"{'; '.join(said)}"
    )
    console.print(note, soft_wrap=True)
    return {"note": note}


def begin_supervised(
    run: Run,
    policy: VLAPolicy,
    stage: Stage,
    parts: Parts,
    *,
    suite: Suite,
    expert: ExpertDataset,
    online: EpisodeStore,
    episodes: int,
) -> AbstractContextManager[Begun]:
    """Let others begin with a stage that is not `inline`; `run_supervised` takes what they learn.

    See `begin_elsewhere`.
    """
    _, learner, frames = _learner(
        run, policy, stage, parts, suite=suite, online=online, episodes=episodes
    )
    return begin_elsewhere(run, policy, learner, stage, parts, expert=expert.read(), online=frames)


def _learner(
    run: Run,
    policy: VLAPolicy,
    stage: Stage,
    parts: Parts,
    *,
    suite: Suite,
    online: EpisodeStore | None,
    episodes: int | None,
) -> tuple[SFTConfig, SFT, Frames | None]:
    """Return the settings of a stage, who learns, and D_RL."""
    config = run.config.sft if stage.kind == "sft" else run.config.sl
    words = out_of_suite_words(suite)
    learner = SFT(policy, config, parts=parts, seed=run.draws(stage), words=words)
    if online is None or not len(online) or episodes == 0:
        return config, learner, None
    frames = online.read()
    return config, learner, frames if episodes is None else frames.first(episodes)


def out_of_suite_words(suite: Suite) -> tuple[str, ...]:
    """Return words that no instruction of the suite has: what `augment.words` puts into them.

    So unseen tasks stay unseen.
    """
    known = {word for task in suite.tasks for word in task.instruction.lower().split()}
    return tuple(word for word in words() if word.isalpha() and len(word) > 2 and word not in known)


def _title(stage: Stage) -> str:
    if stage.kind == "sft":
        return "Stage 0: supervised fine-tuning"
    return f"Stage 2: supervised learning, {stage.target}"
