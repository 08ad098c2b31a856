"""Stages 0 and 2: supervised learning on D_e (equation 2), or on D_e and D_RL (equation 4)."""

from collections.abc import Mapping

from irevla.compute.device import threads
from irevla.data.episodes import EpisodeStore, ExpertDataset
from irevla.data.mixture import Mixture
from irevla.envs.suite import Suite
from irevla.errors import UserError
from irevla.learners.optim import Means
from irevla.learners.sft import SFT
from irevla.models.policy import VLAPolicy
from irevla.models.vlm.tokenizer import words
from irevla.progress import bar
from irevla.runs.run import Run
from irevla.stages.contract import check_learnt, complete, load_if_done, resume, save
from irevla.tasks import Parts, Stage

LOG_EVERY = 50  # steps between two points of the learning curve


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
    mixture = Mixture(expert.read(), frames, run.config.mixture, seed=draws)
    held_out = mixture.validation()
    learner = SFT(policy, config, parts=parts, seed=draws, words=out_of_suite_words(suite))
    resume(run.checkpoints, policy, stage, learner)

    means = Means()
    metrics: dict[str, float] = {}
    with threads(run.config.threads), bar(_title(stage), config.steps) as advance:
        while learner.updates < config.steps:
            means.add(learner.update(mixture.batch(learner.updates, config.batch)))
            step = learner.updates
            validates = step % config.validate_every == 0 or step == config.steps
            if validates or step % LOG_EVERY == 0:
                metrics = means.take()
                if validates:
                    metrics |= learner.validate(held_out, mixture.weights())
                    save(run.checkpoints, policy, stage, learner)
                run.metrics.log(stage.name, step, **metrics)
            advance(step, _note(metrics))

    if learner.skipped == learner.updates:
        raise UserError(
            "supervised learning: no gradient was finite; lower the learning rate or check the data"
        )
    check_learnt(stage, updates=learner.updates, moved=learner.moved)
    policy.eval()
    complete(run, policy, stage, skipped=learner.skipped)
    return policy


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


def _note(metrics: Mapping[str, float]) -> str:
    shown = {"loss": "loss", "validation": "validation"}
    return ", ".join(f"{name} {metrics[key]:.4f}" for key, name in shown.items() if key in metrics)
