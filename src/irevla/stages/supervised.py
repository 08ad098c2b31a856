"""Stages 0 and 2: supervised learning on D_e (equation 2), or on D_e and D_RL (equation 4)."""

from collections.abc import Mapping

import torch

from irevla.compute.device import threads
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
from irevla.stages.elsewhere import engine_of, learn_elsewhere
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
) -> VLAPolicy:
    """Let `parts` of the policy learn from D_e and, in stage 2, from D_RL.

    Raises `UserError` where no step ever had a finite gradient, or one but exact zeros.
    """
    if load_if_done(run, policy, stage):
        return policy
    config = run.config.sft if stage.kind == "sft" else run.config.sl
    draws = run.draws(stage)
    frames = online.read() if online is not None and len(online) else None
    words = out_of_suite_words(suite)
    scale = policy.action_scale
    mixture = Mixture(
        in_scale(expert.read(), scale),
        None if frames is None else in_scale(frames, scale),
        run.config.mixture,
        seed=draws,
        chunk=policy.chunk,
    )
    learner = SFT(policy, config, parts=parts, seed=draws, words=words)
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
